"""Sampling settings as transformers' logits processors: what a token's score becomes before the largest is taken."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from mmft.structures import Sample

__all__ = ['GumbelNoise', 'logits_processors']


def logits_processors(settings: Mapping[str, Any], prompt: Sample) -> LogitsProcessorList:
    """The processors, in the order of transformers' ``generate``; generation is greedy over what they leave.

    Args:
        settings: ``temperature`` (0 or none: always the likeliest token, and the next four have no effect),
            ``top_k`` (0: any), ``top_p``, ``min_p``, ``seed``; ``repetition_penalty``, of the prompt's tokens too;
            ``logit_bias``, {token id: what is added}.
        prompt: what is answered.
    """
    made: list[LogitsProcessor] = []
    if bias := settings.get('logit_bias'):
        made.append(_Bias(bias))
    if (penalty := settings.get('repetition_penalty', 1.0)) != 1:
        made.append(_RepetitionPenalty(penalty, prompt.input_ids))
    if temperature := settings.get('temperature'):
        made.append(TemperatureLogitsWarper(float(temperature)))
        if top_k := settings.get('top_k'):
            made.append(TopKLogitsWarper(top_k))
        if settings.get('top_p', 1.0) < 1:
            made.append(TopPLogitsWarper(settings['top_p']))
        if min_p := settings.get('min_p'):
            made.append(MinPLogitsWarper(min_p))
        made.append(GumbelNoise(settings.get('seed')))
    return LogitsProcessorList(made)


class GumbelNoise(LogitsProcessor):
    """Adds noise under which the largest score is a draw from softmax(scores).

    transformers draws from torch's global generator: a seed there would disturb, and be disturbed by, whatever else
    the process draws.
    """

    def __init__(self, seed: int | None) -> None:
        self.generator = torch.Generator()
        if seed is None:
            self.generator.seed()
        else:
            self.generator.manual_seed(seed)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        uniform = torch.rand(scores.shape, generator=self.generator, dtype=torch.float64).clamp_(min=1e-300)
        return scores - (-uniform.log()).log().to(scores)


class _Bias(LogitsProcessor):
    """OpenAI's ``logit_bias``."""

    def __init__(self, bias: Mapping[str, float]) -> None:
        self.ids, self.values = [int(token) for token in bias], torch.tensor(list(bias.values()))

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        scores = scores.clone()
        scores[:, self.ids] += self.values.to(scores)
        return scores


class _RepetitionPenalty(RepetitionPenaltyLogitsProcessor):
    """transformers', which sees only the answer where the prompt is embeddings."""

    def __init__(self, penalty: float, prompt_ids: Tensor) -> None:
        super().__init__(penalty)
        self.prompt_ids = prompt_ids[None]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        prompt = self.prompt_ids.to(input_ids.device)
        prompt = prompt[prompt < scores.shape[-1]][None]  # an image token may have no score
        return super().__call__(torch.cat([prompt, input_ids], dim=1), scores)
