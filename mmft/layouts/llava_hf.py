"""transformers' own layout of LLaVA: ``LlavaForConditionalGeneration``; ``llava_next_hf.py`` and
``llava_onevision_hf.py`` have its kin.

Names are those that llava-hf's directories and LMDeploy use (``vision_tower.vision_model.*``,
``language_model.model.*``); those of newer transformers (``model.language_model.*``) are read as well.

What the classes have no place for is put elsewhere (``adjustments``) or refused.

Sources: ``transformers/models/llava`` 5.23; LMDeploy 0.18, ``lmdeploy/vl/model/llava_hf.py`` and
``lmdeploy/pytorch/models/llava.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmft.backends import Support
from mmft.errors import CheckpointError, ConfigError
from mmft.files.directory import ModelDirectory, first_key
from mmft.layouts.adjust import Adjustment
from mmft.layouts.base import Layout, refuse
from mmft.layouts.language import by_class, family_of, is_tied, language_model
from mmft.layouts.llava_encoder import llava_encoder, unpadded
from mmft.layouts.rules import Rule
from mmft.layouts.small_files import Contents, plain_config, text_config
from mmft.layouts.vision import tower_ignored, tower_rules, vision_tower
from mmft.models.language.family import held_by
from mmft.models.normalizer import TOWER_PIXELS

if TYPE_CHECKING:
    from torch import nn

    from mmft.data.encoder import ChatEncoder

__all__ = ['NO_LLAVA', 'LlavaHF']

_PROJECTOR = {'linear_1': 'mlp.0', 'linear_2': 'mlp.2'}
_ROWS = 64  # tables that grow, grow to a multiple of this: what tensor parallelism and kernels like to divide
NO_LLAVA = 'TurboMind has no LLaVA'
_FINAL_NORM = 'llm.lm.model.norm.weight'
_ACTIVATIONS = ('gelu', 'gelu_pytorch_tanh', 'relu', 'silu')


def _pixels(kind: str, directory: ModelDirectory | None) -> dict[str, Any]:
    """The directory's own pixel statistics, else those that the tower was trained with."""
    numbers = directory.image_processor if directory is not None else {}
    if numbers.get('image_mean') and numbers.get('image_std'):
        return {'pixel_mean': tuple(numbers['image_mean']), 'pixel_std': tuple(numbers['image_std'])}
    return TOWER_PIXELS.get(kind, {})


class LlavaHF(Layout):
    """llava-hf's LLaVA-1.5: one tile per picture, an MLP of two layers."""

    architecture = 'LlavaForConditionalGeneration'
    option = 'hf'
    model_type, processor = 'llava', 'Llava'  # how transformers' names of its other classes begin
    tilers: tuple[str, ...] = ('PadSquare', 'Resize', 'CenterCrop')
    feature_layer, feature_strategy, text_type = -2, 'default', 'llama'  # where ``config.json`` says none
    chat_templates = ('chat_template.jinja', 'chat_template.json', 'processor_config.json')
    zeros = ('llm.lm.lm_head.bias',)  # of Phi: transformers' LLaVA has a head without bias

    def __init__(self, model: dict[str, Any], options: dict[str, Any] | None = None) -> None:
        super().__init__(model, options)
        kind = model['vision']['type']
        tower = [name for at in ('vision_tower.', 'model.vision_tower.') for name in tower_ignored(kind, at)]
        self.ignored = (*Layout.ignored, *tower)

    @classmethod
    def from_config(cls, config: dict[str, Any], directory: ModelDirectory | None = None) -> LlavaHF:
        where = 'config.json' if directory is None else str(directory.path)
        vision, text = (
            vision_tower(config['vision_config'], where),
            {'model_type': cls.text_type, **config['text_config']},
        )
        layer = config.get('vision_feature_layer', cls.feature_layer)
        if not isinstance(layer, int):
            raise CheckpointError(f'{where}: vision_feature_layer = {layer}', expected='one layer')
        if config.get('multimodal_projector_bias') is False:
            raise CheckpointError(f'{where}: a projector without bias', expected='multimodal_projector_bias = true')
        strategy = config.get('vision_feature_select_strategy', cls.feature_strategy)
        if strategy not in ('default', 'full'):
            what = f'{where}: vision_feature_select_strategy = {strategy!r}'
            raise CheckpointError(what, expected="'default' or 'full'")
        feature = {'select_feature': 'patch' if strategy == 'default' else 'cls_patch'}
        if vision['type'] == 'SigLIP':
            feature = {'drop_first': strategy == 'default'}
        keys = [] if directory is None else list(directory.tensors)
        tie = is_tied(config, family_of(text) or 'Llama', keys)
        model = {
            'type': 'VLM',
            'vision': {**vision, 'select_layer': layer, **feature},
            'projector': {'type': 'MLP', 'depth': 2, 'act': config.get('projector_hidden_act', 'gelu')},
            'llm': language_model(text, where, tie=tie),
            'image_token_id': first_key(config, 'image_token_id', 'image_token_index'),
            **_pixels(vision['type'], directory),
            **cls._merge(config),
        }
        return cls(model, config)

    @classmethod
    def _merge(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """``merge`` of the ``model`` dict, as ``config.json`` says it."""
        return {}

    @classmethod
    def from_model(cls, model_config: dict[str, Any]) -> LlavaHF:
        vision, projector = model_config['vision'], model_config['projector']
        problems = []
        if vision['type'] not in ('CLIP', 'SigLIP', 'DINOv2'):
            problems.append(f'the tower {vision["type"]}: it holds CLIP, SigLIP and DINOv2')
        if projector['type'] != 'MLP' or projector.get('depth', 2) != 2 or projector.get('hidden_dim'):
            problems.append(f'the projector {projector["type"]}: it has an MLP of two layers, as wide as the LLM')
        elif projector.get('act', 'gelu') not in _ACTIVATIONS:
            problems.append(f'the activation {projector["act"]}')
        if (kind := model_config['llm']['type']) not in (held := held_by('llava_hf')):
            problems.append(f'the language model {kind}: it has {", ".join(held)}')
        refuse(cls.architecture, [*problems, *cls._merge_problems(model_config.get('merge'))])
        return cls(model_config)

    @classmethod
    def _merge_problems(cls, merge: dict[str, Any] | None) -> list[str]:
        return ['tiles that are merged: LlavaNextForConditionalGeneration does'] if merge else []

    def encoder_config(self, directory: Path) -> dict[str, Any]:
        return llava_encoder(self._model, self._image_processor(ModelDirectory(directory)), directory)

    def _image_processor(self, directory: ModelDirectory) -> dict[str, Any]:
        numbers, side = directory.image_processor, self._model['vision']['image_size']
        if numbers.get('do_pad'):
            return {'type': 'PadSquare', 'tile_size': side, 'mean': numbers.get('image_mean', (0.5, 0.5, 0.5))}
        own = unpadded(self._model['vision']['type'])
        kind = {True: 'CenterCrop', False: 'Resize'}.get(numbers.get('do_center_crop'), own)
        return {'type': kind, 'tile_size': side}

    @property
    def rules(self) -> list[Rule]:
        kind = self._model['vision']['type']
        return [
            *(rule for at in ('', 'model.') for rule in tower_rules(kind, f'{at}vision_tower.')),
            *(
                Rule(f'{at}multi_modal_projector.{theirs}.{{k}}', f'projector.{ours}.{{k}}')
                for at in ('', 'model.')
                for theirs, ours in _PROJECTOR.items()
            ),
            Rule('image_newline', 'merge.image_newline'),
            Rule('model.image_newline', 'merge.image_newline'),
            Rule('language_model.{x}', 'llm.lm.{x}'),
            Rule('model.language_model.{x}', 'llm.lm.model.{x}'),
            Rule('lm_head.{k}', 'llm.lm.lm_head.{k}'),
        ]

    @classmethod
    def support(cls) -> list[Support]:
        clip, others = ('clip_vision_model',), ('siglip_vision_model', 'dinov2')
        row = partial(Support, cls.option, cls.architecture, turbomind=NO_LLAVA)
        return [
            *(row(name, kinds, clip, pytorch=family.pytorch) for name, kinds, family in by_class(held_by('llava_hf'))),
            row(towers=others, pytorch="LMDeploy's LLaVA has no other tower than CLIP"),
        ]

    @classmethod
    def limited_support(cls, row: Support, config: Mapping[str, Any]) -> Support:
        text = config.get('text_config') or {}
        heads, width = text.get('num_attention_heads'), text.get('head_dim')
        if not row.pytorch and heads and width and width * heads != text.get('hidden_size'):
            why = f"LMDeploy's LLaVA takes heads of hidden_size / num_attention_heads, the model has {width}"
            return replace(row, pytorch=why)
        return row

    def check(self, contents: Contents) -> None:
        # What transformers' processors cannot do as the encoder does it.
        if contents.encoder is None:
            return
        tiler, model = contents.tiler, contents.model
        kind, side = tiler.get('type'), contents.side
        problems = []
        if kind is not None and kind not in self.tilers:
            problems.append(f'it prepares pictures as {" or ".join(self.tilers)} do; the encoder has {kind}')
        if 'mean' in tiler and [int(255 * m) for m in tiler['mean']] != [int(255 * m) for m in model.pixel_mean]:
            problems.append(
                f"it pads with the model's pixel_mean {list(model.pixel_mean)}; the encoder with {tiler['mean']}"
            )
        mode = tiler.get('mode', 'spatial_unpad')
        if 'grid_pinpoints' in tiler and (mode != 'spatial_unpad' or tiler['max_tiles'] is not None):
            problems.append(
                'it arranges the tiles as spatial_unpad, however many; the encoder has '
                f'mode={mode!r}, max_tiles={tiler["max_tiles"]}'
            )
        if side != model.vision.image_size and model.vision.tower.config.model_type != 'dinov2':
            problems.append(f'it takes tiles of {model.vision.image_size} px only; the encoder cuts {side} px')
        if problems:
            raise ConfigError.gather([f"transformers' LLaVA processor: {p}; use --layout native" for p in problems])

    def adjustments(self, contents: Contents) -> dict[str, Adjustment]:
        """The classes' head has neither a bias (Phi) nor a scale (MiniCPM), and every id needs a row of the table.

        MiniCPM's scale goes into the norm before the head. A bias that is not zero cannot go anywhere.
        """
        model = contents.model
        found: dict[str, Adjustment] = {}
        scale = getattr(model.llm.lm.config, 'logits_scaling', None)
        if scale not in (None, 1, 1.0):
            found[_FINAL_NORM] = Adjustment(factor=1 / scale)
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        head = model.llm.lm.get_output_embeddings()
        if head.bias is not None:
            found[names[id(head.bias)]] = Adjustment(absent=True)
        pad = contents.encoder.pad_token_id if contents.encoder is not None else 0
        last = max(contents.image_token_id or 0, pad)
        if last >= model.llm.vocab_size:
            rows = -(-(last + 1) // _ROWS) * _ROWS
            tables = (model.llm.lm.get_input_embeddings(), head)
            found |= {names[id(table.weight)]: Adjustment(rows=rows) for table in tables}
        return found

    def config_json(self, contents: Contents) -> dict[str, Any]:
        model, text = contents.model, text_config(contents)
        vision, projector = model.vision, model.projector
        for name, change in self.adjustments(contents).items():
            if change.rows is not None:
                text['vocab_size'] = change.rows
            elif name == _FINAL_NORM:
                text['logits_scaling'] = 1.0
        config = {
            'architectures': [self.architecture],
            'model_type': self.model_type,
            'dtype': contents.dtype,
            'tie_word_embeddings': bool(model.llm.lm.config.tie_word_embeddings),
            'image_token_index': contents.image_token_id,
            # LMDeploy takes the pad token's id for a picture's places and writes no padding; this is no text's token.
            'pad_token_id': contents.image_token_id,
            'image_seq_length': contents.tokens_per_tile,
            'projector_hidden_act': projector.act,
            'multimodal_projector_bias': True,
            'vision_feature_layer': _feature_layer(vision),
            'vision_feature_select_strategy': 'default' if vision.dropped_tokens else 'full',
            'text_config': text,
            'vision_config': {
                **plain_config(vision.tower.config),
                'architectures': [type(vision.tower).__name__],
                'dtype': contents.dtype,
            },
            **self._sizes(contents),
        }
        return {name: value for name, value in config.items() if value is not None}

    def small_files(self, contents: Contents, config: dict[str, Any]) -> dict[str, dict[str, Any]]:
        images = self._preprocessor(contents)
        if contents.encoder is None:
            return {'preprocessor_config.json': images}
        processor = {
            'processor_class': f'{self.processor}Processor',
            'image_token': contents.encoder.image_token,
            'patch_size': contents.model.vision.patch_size,
            'num_additional_image_tokens': contents.model.vision.prefix_tokens,
            'vision_feature_select_strategy': config['vision_feature_select_strategy'],
            'image_processor': images,
        }
        return {'preprocessor_config.json': images, 'processor_config.json': processor}

    def special_tokens(self, encoder: ChatEncoder) -> dict[str, str]:
        return {'image_token': encoder.image_token}

    def _sizes(self, contents: Contents) -> dict[str, Any]:
        """The sizes that pictures in several tiles may have."""
        return {}

    def _preprocessor(self, contents: Contents) -> dict[str, Any]:
        """``preprocessor_config.json``: how pictures are prepared."""
        tiler, sizes = contents.tiler, self._sizes(contents)
        square = {'height': contents.side, 'width': contents.side}
        return {
            # transformers resizes with torchvision, a grey level beside training's Pillow here and there;
            # AutoProcessor.from_pretrained(path, backend='pil') gives the same pixels.
            'image_processor_type': f'{self.processor}ImageProcessor',
            **contents.pixel_steps,
            'size': square if tiler.get('type') == 'Resize' else {'shortest_edge': contents.side},
            'do_center_crop': tiler.get('type') != 'Resize',
            'crop_size': square,
            'do_pad': bool(sizes) or tiler.get('type') == 'PadSquare',
            **contents.transparency,
            **sizes,
        }


def _feature_layer(vision: nn.Module) -> int:
    """``select_layer`` counted from the end: LMDeploy adds it to the number of layers."""
    layer = vision.select_layer
    return layer if layer < 0 else layer - len(vision.layers) - 1
