"""How many tokens a request will be, and whether the chat template takes it, before any backend is asked.

Counted as the backend assembles the prompt: ``transformers serve`` and LMDeploy run the directory's own processor, so
``ProcessorCounter`` does; mmft's own backend runs a ``ChatEncoder``, so ``EncoderCounter`` does. For exports of mmft
the two agree, but for several large pictures: an encoder shares the tiles among them, transformers' processor does not.
``transformers serve`` (5.23) knows no session length, and answers what a template or processor refuses with a bare
status 500.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmft.data.prompt import from_parts
from mmft.errors import CheckpointError, DataError
from mmft.serve.gateway.api_error import ApiError

__all__ = ['EncoderCounter', 'ProcessorCounter', 'PromptCounter', 'session_length', 'text_config']

_LONGEST_TOKEN = 256  # characters; the longest tokens of the known vocabularies are runs of 128 spaces


def session_length(config: Mapping[str, Any]) -> int | None:
    """Most tokens of question and answer together, as ``config.json`` says it; None where it does not."""
    return text_config(config).get('max_position_embeddings')


def text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part of ``config.json`` that is about the language model."""
    return config.get('text_config') or config.get('llm_config') or config


class PromptCounter(ABC):
    """Counts the tokens of conversations.

    Attributes:
        tokenizer: the model's.
        reserved: texts that stand for pictures.
    """

    tokenizer: Any
    reserved: tuple[str, ...]

    def count(self, messages: Sequence[Mapping[str, Any]], sizes: Sequence[tuple[int, int]], limit: int | None) -> int:
        """Tokens of the conversation with the opening of an answer.

        Args:
            messages: as in ``ChatRequest``.
            sizes: (width, height) of the pictures in order.
            limit: stop counting once it is known that there are more.

        Raises:
            ApiError: the text takes the place of a picture, the template refuses it, or it is longer than ``limit``.
        """
        texts = [part for message in messages for part in _texts(message)]
        for token in self.reserved:
            if any(token in text for text in texts):
                message = f'The text contains {token!r}, which stands for a picture. Remove it; send pictures as parts.'
                raise ApiError(400, message, 'invalid_value', 'messages')
        characters = sum(map(len, texts))
        if limit is not None and characters > limit * _LONGEST_TOKEN:
            raise too_long(f'more than {characters // _LONGEST_TOKEN}', limit)
        count = self._count(messages, sizes)
        if limit is not None and count >= limit:
            raise too_long(str(count), limit)
        return count

    def tokens(self, text: str) -> int:
        """Of an answer."""
        return len(self.tokenizer(text, add_special_tokens=False)['input_ids'])

    @abstractmethod
    def _count(self, messages: Sequence[Mapping[str, Any]], sizes: Sequence[tuple[int, int]]) -> int:
        """As ``count``, once the text has been looked at."""


class EncoderCounter(PromptCounter):
    """With mmft's encoder, for mmft's own backend.

    Args:
        directory: any that ``mmft.load`` reads.
        base: as of ``mmft.load``.

    Raises:
        CheckpointError: it holds no encoder, or one that cannot be read.
    """

    def __init__(self, directory: str | Path, base: str | Path | None = None) -> None:
        from mmft.checkpoint.load import load_encoder
        from mmft.files.directory import ModelDirectory

        self.encoder = load_encoder(ModelDirectory(Path(directory), base))
        if self.encoder is None:
            raise CheckpointError(
                f'{directory} holds no tokenizer', expected='tokenizer.json or tokenizer.model beside the weights'
            )
        self.tokenizer, self.reserved = self.encoder.tokenizer, (self.encoder.image_token,)

    def _count(self, messages: Sequence[Mapping[str, Any]], sizes: Sequence[tuple[int, int]]) -> int:
        try:
            return self.encoder.num_tokens(from_parts(messages)[0], sizes, add_generation_prompt=True)
        except DataError as error:
            message = f'The chat template of the model does not take this conversation: {" ".join(str(error).split())}'
            raise ApiError(400, message, 'invalid_value', 'messages') from error


class ProcessorCounter(PromptCounter):
    """With the directory's own processor, for backends that run it.

    Args:
        directory: an HF-native directory.

    Raises:
        CheckpointError: its processor cannot be opened.
    """

    def __init__(self, directory: str | Path) -> None:
        from transformers import AutoProcessor

        try:
            self.processor = AutoProcessor.from_pretrained(str(directory), trust_remote_code=False)
            self.tokenizer = self.processor.tokenizer
        except Exception as error:  # whatever transformers raises for a foreign directory
            raise CheckpointError(
                f'{directory}: its processor cannot be opened: {type(error).__name__}: {error}',
                expected='processor_config.json or preprocessor_config.json, and a tokenizer',
                fix='export the model again, or copy the files from where it was published',
            ) from error
        tokens = [getattr(self.processor, name, None) for name in ('image_token', 'video_token')]
        # The last one is LMDeploy's own: a question with it loses its pictures.
        self.reserved = (*(token for token in tokens if token), '<IMAGE_TOKEN>')
        self._picture = functools.lru_cache(maxsize=4096)(self._picture_tokens())

    def _count(self, messages: Sequence[Mapping[str, Any]], sizes: Sequence[tuple[int, int]]) -> int:
        prompt = self._render(messages)
        bos = self.tokenizer.bos_token
        special = not (bos and prompt.startswith(bos))  # as ProcessorMixin.apply_chat_template decides
        count = len(self.tokenizer(prompt, add_special_tokens=special)['input_ids'])
        return count + sum(self._picture(width, height, len(sizes) > 1) - 1 for width, height in sizes)

    def _render(self, messages: Sequence[Mapping[str, Any]]) -> str:
        turns = []
        for message in messages:
            content = message['content']
            parts = [{'type': 'text', 'text': content}] if isinstance(content, str) else content
            parts = [{'type': 'image'} if part['type'] == 'image_url' else part for part in parts]
            turns.append({'role': message['role'], 'content': parts})
        try:
            return self.processor.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        except Exception as error:  # templates are programs of others
            message = f'The chat template of the model does not take this conversation: {error}'
            raise ApiError(400, message, 'invalid_value', 'messages') from error

    def _picture_tokens(self):
        """(width, height, several) -> tokens: by the processor's arithmetic where that comes true, else by doing it.

        LLaVA-OneVision's is true of a picture alone only: it does not tile one of several.
        """
        quick = getattr(self.processor, '_get_num_multimodal_tokens', None)

        def calculated(width: int, height: int, several: bool) -> int:
            return int(quick(image_sizes=[[height, width]]).num_image_tokens[0])

        def true(several: bool) -> bool:
            try:
                sizes = ((640, 480), (300, 1000), (90, 60))
                return all(calculated(*size, several) == self._by_doing(*size, several) for size in sizes)
            except Exception:  # not public: it may change in any way
                return False

        ways = [calculated if quick is not None and true(several) else self._by_doing for several in (False, True)]
        return lambda width, height, several: ways[several](width, height, several)

    def _by_doing(self, width: int, height: int, several: bool) -> int:
        from PIL import Image

        images = [Image.new('RGB', (width, height))] * (1 + several)
        text = self.processor.image_token * len(images)
        made = self.processor(images=[images], text=[text], add_special_tokens=False)
        return len(made['input_ids'][0]) // len(images)


def too_long(count: str, limit: int) -> ApiError:
    """The error for a conversation that does not fit."""
    message = (
        f'This conversation has {count} tokens; the session has {limit}, the answer included. Shorten it, or send '
    )
    return ApiError(400, f'{message}fewer or smaller pictures.', 'context_length_exceeded', 'messages')


def _texts(message: Mapping[str, Any]) -> list[str]:
    content = message['content']
    return [content] if isinstance(content, str) else [part['text'] for part in content if part['type'] == 'text']
