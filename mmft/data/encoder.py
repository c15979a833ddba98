"""``ChatEncoder``: from a conversation and its pictures to token ids, labels and tiles. One object trains and serves.

Text of special tokens in messages
    ``'</s>'`` or ``'<|im_end|>'`` written in a message is tokenized as that token, as the originals do. Since masks
    come from character offsets (``TextEncoder`` says why) and not from ids, labels and attention stay right. Only the
    image token's own text is refused: it would take a picture's place. ``'<image>'`` stands for a picture in questions
    and is ordinary text in answers and system messages, unless it is the image token itself, as in LLaVA.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from mmft.checks import is_whole
from mmft.data.pictures.tilers import MAX_PIXELS, ImageProcessor, image_size, load_image
from mmft.data.pictures.transparency import as_colour
from mmft.data.prompt import prompt_messages
from mmft.data.stored_encoder import StoredEncoder
from mmft.data.text.conversation import check_conversation, check_message, check_placeholders
from mmft.data.text.label_mask import describe, render_mask
from mmft.data.text.special_tokens import add_special_tokens, give_pad_token
from mmft.data.text.templates import ChatTemplate, build_template
from mmft.data.text.templates.jinja import to_jinja
from mmft.data.text.tokenizers import load_tokenizer
from mmft.errors import ConfigError, DataError, ShapeError
from mmft.registry import ENCODERS, IMAGE_PROCESSORS
from mmft.structures import IGNORE_INDEX, IMAGE_PLACEHOLDER, Sample
from mmft.words import count_of

if TYPE_CHECKING:
    from PIL import Image
    from transformers import PreTrainedTokenizerFast

__all__ = ['ChatEncoder']


@ENCODERS.register_module()
class ChatEncoder(StoredEncoder):
    """Turns messages and pictures into a ``Sample``.

    Args:
        tokenizer: a fast tokenizer, or the directory of one (``load_tokenizer``).
        template: a ``ChatTemplate``, its name or config.
        image_processor: an ``ImageProcessor`` or its config; None for text only.
        tokens_per_tile: Q, language-model tokens that one tile becomes (the model knows it: 256 for InternVL2).
        max_length: most tokens of a training sample; None for any. Prompts for generation are not limited by it.
        too_long: ``'error'``, or ``'truncate'``: text is cut off at the end, pictures never.
        image_start, image_token, image_end: around and in a picture's place; image_start and image_end may be ''.
        images_first: move the pictures of a question before its text, a newline after each, as LLaVA does in training
            (``preprocess_multimodal``, which also makes one of several: here all stay). A picture stays where it stands
            otherwise, as in InternVL.
        add_tokens: give the tokenizer those of the three that it lacks, and a pad token that is not its end token too.
        background: the colour that transparent pictures are laid on: a name, ``#rrggbb`` or ``[red, green, blue]``;
            None drops alpha, as the originals do.

    Raises:
        ConfigError: a token is missing in the tokenizer, or an argument has an unknown value.
    """

    BEFORE: ClassVar = {'background': None}  # 0.1 dropped alpha, and what it trained was trained so

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast | str | os.PathLike,
        template: ChatTemplate | Mapping[str, Any] | str,
        image_processor: ImageProcessor | Mapping[str, Any] | None = None,
        tokens_per_tile: int = 256,
        max_length: int | None = None,
        too_long: str = 'error',
        image_start: str = '<img>',
        image_token: str = '<IMG_CONTEXT>',
        image_end: str = '</img>',
        images_first: bool = False,
        add_tokens: bool = False,
        background: str | Sequence[int] | None = 'white',
    ) -> None:
        if isinstance(tokenizer, (str, os.PathLike)):
            tokenizer = load_tokenizer(tokenizer)
        super().__init__(tokenizer, build_template(template))
        if too_long not in ('error', 'truncate'):
            raise ConfigError(f'too_long={too_long!r}', expected="'error' or 'truncate'")
        texts = {'image_start': image_start, 'image_token': image_token, 'image_end': image_end}
        if wrong := [f'{name} = {value!r}' for name, value in texts.items() if not isinstance(value, str)]:
            raise ConfigError(f'encoder: {", ".join(wrong)}', expected='the texts of tokens')
        if not is_whole(tokens_per_tile, 1) or not (max_length is None or is_whole(max_length, 1)):
            raise ConfigError(f'tokens_per_tile={tokens_per_tile}, max_length={max_length}', expected='at least 1 each')
        self.image_processor = IMAGE_PROCESSORS.build(image_processor)
        self.tokens_per_tile, self.max_length, self.too_long = tokens_per_tile, max_length, too_long
        self.image_start, self.image_token, self.image_end = image_start, image_token, image_end
        self.images_first, self.background = images_first, as_colour(background, 'encoder.background')
        tokens = [text for text in (image_start, image_end, image_token) if text]
        if add_tokens:
            add_special_tokens(tokenizer, tokens)
            give_pad_token(tokenizer, self.template.end.strip())
        self.image_token_id = [self._token_id(text) for text in tokens][-1]
        self.control_ids = self._control_ids() | {self._token_id(text) for text in tokens}
        if not image_end:
            self.divide_at(image_token)

    def _token_id(self, text: str) -> int:
        index = self.tokenizer.get_added_vocab().get(text)
        if index is None:
            raise ConfigError(
                f'the tokenizer has no token {text!r}',
                expected='image tokens that the tokenizer never splits',
                fix='set encoder.add_tokens=True, or the image tokens that this model has',
            )
        return index

    def __call__(
        self,
        messages: Sequence[Mapping[str, Any]],
        images: Sequence[Image.Image | str | os.PathLike] = (),
        add_generation_prompt: bool = False,
        max_pixels: int = MAX_PIXELS,
    ) -> Sample:
        """Encode a conversation.

        Args:
            messages: turns ``{'role', 'content'}``; each ``<image>`` in a question stands for the next of ``images``.
            images: PIL pictures or paths.
            add_generation_prompt: for inference: the last message is a question, and nothing is trained.
            max_pixels: width x height above which a picture is refused.

        Raises:
            DataError: a conversation that does not fit (``check_conversation``), more or fewer ``<image>`` than
                pictures, the image token's text in a message, too many tokens, or a picture that cannot be read.
        """
        _check_list(images)
        ids, trained = self._tokenize(messages, len(images), add_generation_prompt)
        sizes = [image_size(image, max_pixels) for image in images]
        limit = self._share(len(images))
        counts = self._image_tokens(sizes, limit)
        ids, trained = self._expand(ids, trained, counts)
        meta = {}
        if self.max_length is not None and len(ids) > self.max_length and not add_generation_prompt:
            meta['whole'] = torch.from_numpy(ids), torch.from_numpy(trained)
            ids, trained = self._shorten(ids, trained, sum(counts))
        tiles = [self._tiles(image, size, limit, max_pixels) for image, size in zip(images, sizes, strict=True)]
        input_ids = torch.from_numpy(ids)
        return Sample(
            input_ids=input_ids,
            labels=torch.where(torch.from_numpy(trained), input_ids, IGNORE_INDEX),
            pixel_values=torch.cat(tiles) if tiles else None,
            num_tiles=[len(tile) for tile in tiles],
            num_slots=list(counts),
            image_sizes=sizes,
            meta=meta,
            image_grids=[self.image_processor.grid(*size, limit) for size in sizes] if self._arranges else [],
        )

    def prompt(
        self,
        question: str,
        images: Sequence[Image.Image | str | os.PathLike] = (),
        history: Sequence[Mapping[str, Any]] = (),
    ) -> Sample:
        """Encode a question for generation.

        A question without ``<image>`` gets one in front for each picture that ``history`` has no place for: see
        ``prompt_messages``.

        Args:
            question: the user's text.
            images: the pictures of ``history``, then those of ``question``.
            history: the turns before, with their ``<image>`` placeholders.
        """
        _check_list(images)
        for number, turn in enumerate(history, 1):
            check_message(number, turn)
        if not isinstance(question, str):
            raise DataError(f'the question is {type(question).__name__}', expected='a string')
        messages = prompt_messages([*history, {'role': 'user', 'content': question}], len(images))
        return self(messages, images, add_generation_prompt=True)

    def num_tokens(
        self,
        messages: Sequence[Mapping[str, Any]],
        image_sizes: Sequence[tuple[int, int]] = (),
        add_generation_prompt: bool = False,
    ) -> int:
        """How many tokens ``__call__`` would give, before any shortening, from the pictures' (width, height) alone."""
        ids, _ = self._tokenize(messages, len(image_sizes), add_generation_prompt)
        return len(ids) - len(image_sizes) + sum(self._image_tokens(image_sizes, self._share(len(image_sizes))))

    def lost_ends(self, messages: Sequence[Mapping[str, Any]], image_sizes: Sequence[tuple[int, int]] = ()) -> int:
        """How many answers lose their end token to ``max_length``, where ``too_long='truncate'`` cuts texts off."""
        ids, trained = self._tokenize(messages, len(image_sizes), False)
        counts = self._image_tokens(image_sizes, self._share(len(image_sizes)))
        ids, trained = (values[self.max_length :] for values in self._expand(ids, trained, counts))
        return int((trained & (ids == self.stop_token_ids[0])).sum())

    def _tokenize(
        self, messages: Sequence[Mapping[str, Any]], num_images: int, add_generation_prompt: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """Token ids (int64) and whether each is trained (bool), with one image token per picture."""
        check_conversation(messages, self.template, add_generation_prompt)
        check_placeholders(messages, num_images, self.image_token)
        turns = [
            {**turn, 'content': self.place_images(turn['content'])} if turn['role'] == 'user' else turn
            for turn in self.template.normalise(messages, add_generation_prompt)
        ]
        ids, trained = self.encode_text(self.template.render(turns, add_generation_prompt), add_generation_prompt)
        return ids, np.zeros_like(trained) if add_generation_prompt else trained

    def place_images(self, question: str) -> str:
        """A question with the image tokens in it."""
        count = question.count(IMAGE_PLACEHOLDER)
        if self.template.caption_only:  # nothing stands around a picture there (LLaVA's preprocess_plain)
            return question.replace(IMAGE_PLACEHOLDER, self.image_token)
        if count and self.images_first:
            text = question.replace(IMAGE_PLACEHOLDER, '').strip()
            question = (f'{IMAGE_PLACEHOLDER}\n' * count + text).strip()
        return question.replace(IMAGE_PLACEHOLDER, self.image_start + self.image_token + self.image_end)

    def _share(self, num_images: int) -> int | None:
        return None if self.image_processor is None else self.image_processor.share(num_images)

    @property
    def _arranges(self) -> bool:
        return self.image_processor is not None and self.image_processor.arranges

    def _image_tokens(self, sizes: Sequence[tuple[int, int]], limit: int | None) -> list[int]:
        if sizes and self.image_processor is None:
            raise ConfigError(
                f'{count_of(len(sizes), "picture")} for an encoder without image_processor', fix='give it one'
            )
        return [self.image_processor.num_tokens(*size, self.tokens_per_tile, limit) for size in sizes]

    def _expand(self, ids: np.ndarray, trained: np.ndarray, counts: list[int]) -> tuple[np.ndarray, np.ndarray]:
        """Repeat each picture's one token as often as the picture has tokens."""
        if not counts:
            return ids, trained
        repeats = np.ones(len(ids), dtype=np.int64)
        repeats[ids == self.image_token_id] = counts
        return np.repeat(ids, repeats), np.repeat(trained, repeats)

    def _shorten(self, ids: np.ndarray, trained: np.ndarray, num_image: int) -> tuple[np.ndarray, np.ndarray]:
        what = f'{count_of(len(ids), "token")}, {num_image} of them of pictures'
        expected = f'at most max_length={self.max_length}'
        if self.too_long == 'error':
            fix = (
                "raise max_length, lower image_processor.max_tiles, split the conversation, or set too_long='truncate'"
            )
            raise DataError(what, expected=expected, fix=fix)
        if num_image:
            last = int(np.flatnonzero(ids == self.image_token_id)[-1]) + (1 if self.image_end else 0)
            if last >= self.max_length:
                fix = 'raise max_length or lower image_processor.max_tiles'
                raise DataError(f'{what}; cutting would cut a picture', expected=expected, fix=fix)
        if not trained[: self.max_length].any():
            fix = 'raise max_length, lower image_processor.max_tiles or shorten the question'
            raise DataError(f'{what}; cutting would leave nothing to learn', expected=expected, fix=fix)
        return ids[: self.max_length], trained[: self.max_length]

    def _tiles(
        self, image: Image.Image | str | os.PathLike, size: tuple[int, int], limit: int | None, max_pixels: int
    ) -> torch.Tensor:
        tiles = self.image_processor(load_image(image, max_pixels, self.background), limit)
        expected = self.image_processor.num_tiles(*size, limit)
        if len(tiles) != expected:
            raise ShapeError(
                f'{self.image_processor!r} cut a {size[0]}x{size[1]} picture into {count_of(len(tiles), "tile")}',
                expected=f'{expected}, as its num_tiles says',
                fix='make its __call__ follow its grid',
            )
        return tiles

    def describe(self, sample: Sample) -> list[tuple[str, bool]]:
        """The sample as stretches of text, each with whether it is trained; pictures as ``<IMG_CONTEXT>x256``."""
        return describe(self.tokenizer, sample, self.image_token_id)

    def render_mask(self, sample: Sample) -> str:
        """``describe`` for a terminal: trained text green, everything else grey."""
        return render_mask(self.describe(sample))

    def chat_template(self, image: str | None = None) -> str:
        """The Jinja template for an exported tokenizer or processor (``to_jinja``).

        Args:
            image: what the processor that reads it expects for a picture; the image token by default, around which
                transformers' InternVLProcessor puts ``<img>`` and ``</img>`` itself.
        """
        image = self.image_token if image is None else image
        prefix = ' ' if self._leading else ''
        gap, spaces = self.picture_gap, (self._leading, self._unspaced)
        return to_jinja(self.template, image, prefix, gap, self.images_first, *spaces)

    def _config(self) -> dict[str, Any]:
        names = ('tokens_per_tile', 'max_length', 'too_long', 'image_start', 'image_token', 'image_end',
                 'images_first')  # fmt: skip
        return {
            'template': self.template.to_dict(),
            'image_processor': None if self.image_processor is None else self.image_processor.config(),
            **{name: getattr(self, name) for name in names},
            'background': None if self.background is None else list(self.background),
        }


def _check_list(images: Any) -> None:
    """A single picture is a mistake: the letters of its path would be counted as pictures."""
    if isinstance(images, (str, bytes, os.PathLike)) or not isinstance(images, Sequence):
        raise DataError(f'images is a {type(images).__name__}', expected='a list of pictures', fix='write [picture]')
