"""How each backend is asked: a request as the JSON that it takes."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from mmft.serve.gateway.intake.request import ChatRequest

__all__ = ['Dialect', 'LMDeployDialect', 'MmftDialect', 'TransformersDialect', 'pictures_first']


@dataclass
class TransformersDialect:
    """How ``transformers serve`` 5.23 is asked.

    It follows ``temperature`` only where the generation config samples already, and its request has no place for
    ``top_k`` and the like; all of them go into the ``generation_config`` that it takes with a request.

    Attributes:
        model: the directory, as it was given to it.
        greedy: whether the directory's generation config is.
    """

    model: str
    greedy: bool = True
    extra: tuple[str, ...] = ('logit_bias',)

    def alone(self, request: ChatRequest) -> bool:
        """Whether a question needs the backend for itself: all questions share one random generator."""
        return request.sampling.get('temperature', 0 if self.greedy else 1) > 0

    def body(self, request: ChatRequest) -> dict[str, Any]:
        """The JSON of the question."""
        sampling = dict(request.sampling)
        config = {name: sampling[name] for name in ('top_k', 'min_p', 'repetition_penalty') if name in sampling}
        if 'temperature' in sampling:
            config['do_sample'] = sampling['temperature'] > 0
        if self.alone(request):
            # The same answer may have to be made twice, see `Upstream.ask`.
            sampling.setdefault('seed', random.getrandbits(32))
        else:
            for name in ('top_k', 'min_p'):
                config.pop(name, None)
            for name in ('temperature', 'top_p'):
                sampling.pop(name, None)
        fields = {name: sampling[name] for name in ('temperature', 'top_p', 'seed') if name in sampling}
        if config:
            fields['generation_config'] = json.dumps(config)
        return {
            'model': self.model, 'messages': request.messages, 'stream': True,
            'max_completion_tokens': request.max_tokens, **fields, **request.extra,
        }  # fmt: skip


@dataclass
class LMDeployDialect:
    """How LMDeploy's ``api_server`` and ``proxy`` are asked.

    Attributes:
        model: the name it serves under.
        greedy: whether a request that says nothing about sampling is answered greedily, as ``model.chat`` does.
        pictures_first: of LLaVA; see ``pictures_first``.
        extra: TurboMind takes ``logit_bias`` and ignores it.
    """

    model: str
    greedy: bool = True
    pictures_first: bool = False
    extra: tuple[str, ...] = ('response_format', 'logit_bias')

    def alone(self, request: ChatRequest) -> bool:
        """Never: each question has a generator of its own."""
        return False

    def body(self, request: ChatRequest) -> dict[str, Any]:
        """The JSON of the question."""
        sampling = dict(request.sampling)
        if sampling.get('temperature', 0.0 if self.greedy else None) == 0:
            sampling |= {'temperature': 1.0, 'top_k': 1}
        if 'seed' in sampling:
            sampling['seed'] %= 2**63  # its generators take no negative ones
        return {
            'model': self.model,
            'messages': pictures_first(request.messages) if self.pictures_first else request.messages,
            'stream': True,
            'stream_options': {'include_usage': True},
            'max_completion_tokens': request.max_tokens,
            **sampling,
            **request.extra,
        }


@dataclass
class MmftDialect:
    """How mmft's own backend is asked (``backends/mmft_server.py``): with the request as it is."""

    extra: tuple[str, ...] = ('logit_bias',)

    def alone(self, request: ChatRequest) -> bool:
        """Never: each question has a generator of its own."""
        return False

    def body(self, request: ChatRequest) -> dict[str, Any]:
        """The JSON of the question."""
        return {
            'messages': request.messages, 'stream': True, 'stream_options': {'include_usage': True},
            'max_completion_tokens': request.max_tokens, **request.sampling, **request.extra,
        }  # fmt: skip


Dialect: TypeAlias = TransformersDialect | LMDeployDialect | MmftDialect


def pictures_first(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Questions with their pictures first and one text after them.

    LMDeploy 0.18 puts the pictures of a LLaVA question there in any case, and drops every text but the first
    (``lmdeploy/vl/model/llava_hf.py``, ``proc_messages``).
    """
    made = []
    for message in messages:
        parts = message['content']
        if not isinstance(parts, str):
            texts = [part['text'].strip('\n') for part in parts if part['type'] == 'text']
            pictures = [part for part in parts if part['type'] == 'image_url']
            message = {**message, 'content': [*pictures, {'type': 'text', 'text': '\n'.join(texts)}]}
        made.append(dict(message))
    return made
