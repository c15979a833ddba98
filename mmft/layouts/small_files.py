"""The small files around the weights, as far as the families share them: tokenizer, generation and text config."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmft.layouts.language import NOT_THE_MODEL, older_rope
from mmft.layouts.tokenizer_files import write_tokenizer
from mmft.models.normalizer import IMAGENET_MEAN, IMAGENET_STD, TOWER_PIXELS
from mmft.models.vlm import VLM

if TYPE_CHECKING:
    from mmft.data.encoder import ChatEncoder

__all__ = [
    'Contents',
    'generation_config',
    'llm_ids',
    'older_config',
    'plain_config',
    'text_config',
    'write_encoder',
]


@dataclass(frozen=True)
class Contents:
    """What the files of an export describe.

    Attributes:
        model: on the meta device; only its numbers are read.
        model_config: the ``model`` dict it was built from.
        encoder: None where training had none.
        base: the directory that training began with, where it was one directory.
        dtype: name of the weights' dtype. LMDeploy serves anything but float16 and bfloat16 as float16.
        pictures: the image processor as a config, where no encoder has one.
    """

    model: VLM
    model_config: Mapping[str, Any]
    encoder: ChatEncoder | None = None
    base: Path | None = None
    dtype: str = 'float32'
    pictures: Mapping[str, Any] = field(default_factory=dict)

    @property
    def tiler(self) -> dict[str, Any]:
        """The image processor as a config; {} where there is none."""
        if self.encoder is None:
            return dict(self.pictures)
        return self.encoder.image_processor.config() if self.encoder.image_processor is not None else {}

    @property
    def transparency(self) -> dict[str, Any]:
        """``background``, for the settings of an image processor: transformers keeps the key, and blends with white."""
        if self.encoder is None:
            return {}
        # transformers drops a key that is null when it saves the settings again.
        return {'background': 'none' if self.encoder.background is None else list(self.encoder.background)}

    @property
    def side(self) -> int:
        """Of a tile, in px."""
        return self.tiler.get('tile_size', self.model.vision.image_size)

    @property
    def pixel_steps(self) -> dict[str, Any]:
        """From a picture to pixels, as every image processor of transformers names it."""
        return {
            'do_convert_rgb': True,
            'do_resize': True,
            'resample': 3,  # PIL.Image.Resampling.BICUBIC
            'do_rescale': True,
            'rescale_factor': 1 / 255,
            'do_normalize': True,
            'image_mean': list(self.model.pixel_mean),
            'image_std': list(self.model.pixel_std),
        }

    @property
    def image_token_id(self) -> int | None:
        """Of the placeholder."""
        return self.encoder.image_token_id if self.encoder is not None else self.model.image_token_id

    def pixel_problems(self, kind: str) -> list[str]:
        """What is wrong with the pixel statistics for a layout that always takes those the tower was trained with.

        Args:
            kind: of the tower.
        """
        mean, std = TOWER_PIXELS.get(kind, {}).values() or (IMAGENET_MEAN, IMAGENET_STD)
        if (tuple(self.model.pixel_mean), tuple(self.model.pixel_std)) == (mean, std):
            return []
        return [f'pixel_mean {list(self.model.pixel_mean)}: it takes what {kind} was trained with, {list(mean)}']

    @property
    def tokens_per_tile(self) -> int:
        """Q."""
        return self.encoder.tokens_per_tile if self.encoder is not None else self.model.tokens_per_tile


def plain_config(config: Any) -> dict[str, Any]:
    """A transformers config as a dict, without what does not describe the model."""
    return {k: v for k, v in config.to_dict().items() if k not in NOT_THE_MODEL and v is not None}


def text_config(contents: Contents) -> dict[str, Any]:
    """``text_config`` of an HF-native directory.

    LMDeploy finds the language model by its ``architectures`` and reads the tie there. Of the pad token it clears the
    row of the embedding, and of a head that is tied to it, though the token may end a turn; so here it has no name.
    """
    lm = contents.model.llm.lm
    text = plain_config(lm.config)
    text |= llm_ids(text, contents.encoder)  # null where there is none: left out, a class's own default would stand in
    return text | {'pad_token_id': None, 'architectures': [type(lm).__name__], 'dtype': contents.dtype}


def llm_ids(llm: Mapping[str, Any], encoder: ChatEncoder | None) -> dict[str, int | None]:
    """``bos_token_id``, ``eos_token_id`` and ``pad_token_id``: the config's, completed from the tokenizer.

    Args:
        llm: the language model's config as a dict.
    """
    ids = {}
    for name in ('bos_token_id', 'eos_token_id', 'pad_token_id'):
        value = llm.get(name)
        ids[name] = getattr(encoder.tokenizer, name) if value is None and encoder is not None else value
    return ids


def generation_config(ids: Mapping[str, int | None], encoder: ChatEncoder | None) -> dict[str, Any]:
    """Greedy decoding that stops where the template's answers end."""
    stop = encoder.stop_token_ids if encoder is not None else ids['eos_token_id']
    pad = encoder.pad_token_id if encoder is not None else ids['pad_token_id']
    config = {'bos_token_id': ids['bos_token_id'], 'eos_token_id': stop, 'pad_token_id': pad, 'do_sample': False}
    return {name: value for name, value in config.items() if value is not None}


def write_encoder(directory: Path, encoder: ChatEncoder, special_tokens: dict[str, str], image: str) -> None:
    """The tokenizer, its chat template and ``encoder.json``, from which ``mmft.load`` restores the encoder.

    Args:
        special_tokens: names under which the layout's processor looks up tokens of its own.
        image: what stands for a picture in the chat template.
    """
    encoder.save_pretrained(directory)
    write_tokenizer(directory, encoder, **({'extra_special_tokens': special_tokens} if special_tokens else {}))
    (directory / 'chat_template.jinja').write_text(encoder.chat_template(image), encoding='utf-8')


def older_config(config: Any) -> dict[str, Any]:
    """A language model's config by the names of transformers 4, with which the original programs run."""
    fields = plain_config(config)
    return fields | older_rope(fields.pop('rope_parameters', None))
