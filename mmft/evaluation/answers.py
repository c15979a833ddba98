"""Answers of a model in this process to the last question of each sample of a batch, beside those in the data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mmft.data.batches.collate import pictures
from mmft.evaluation.metrics import exact_match
from mmft.models.sharding import gathers_weights
from mmft.structures import IGNORE_INDEX, Sample

__all__ = ['Answer', 'answer_samples', 'question_of']


@dataclass(slots=True)
class Answer:
    """A generated answer beside those in the data.

    Attributes:
        reference: the answer of the conversation.
        references: all that count as right: the record's ``answers``, else ``reference``.
        fits: ``reference`` is no longer than the longest answer.
    """

    prompt: str
    answer: str
    reference: str
    references: list[str]
    fits: bool = True

    @property
    def right(self) -> bool:
        """Whether it is an exact match."""
        return exact_match(self.answer, self.references) == 1


def question_of(sample: Sample) -> tuple[Tensor, Tensor]:
    """Token ids before the last answer of a conversation, and those of this answer: (L',), (A,).

    The last answer is the last run of trained labels, of a sample that is cut off at ``max_length`` as it was before.
    """
    ids, labelled = sample.meta.get('whole', (sample.input_ids, sample.labels != IGNORE_INDEX))
    trained = labelled.nonzero().flatten().tolist()
    start = trained[-1]
    known = set(trained)
    while start - 1 in known:
        start -= 1
    return ids[:start], ids[start : trained[-1] + 1]


@torch.no_grad()
def answer_samples(
    model: nn.Module, encoder: Any, samples: Sequence[Sample], max_new_tokens: int = 64, **generate: Any
) -> list[Answer]:
    """Greedy answers to the last question of each sample, generated as one left-padded batch."""
    if gathers_weights(model):
        generate['synced_gpus'] = True  # every rank has to run as many forward passes as the longest answer
    prompts, references = zip(*(question_of(sample) for sample in samples), strict=True)
    longest = max(map(len, prompts))
    input_ids = torch.full((len(prompts), longest), encoder.pad_token_id or 0)
    attention_mask = torch.zeros(len(prompts), longest, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        input_ids[row, longest - len(prompt) :] = prompt
        attention_mask[row, longest - len(prompt) :] = 1
    inputs = {'input_ids': input_ids, 'attention_mask': attention_mask, **pictures(samples)}
    ids = model(
        **model.data_preprocessor({key: value for key, value in inputs.items() if value is not None}),
        mode='predict',
        max_new_tokens=max_new_tokens,
        do_sample=False,
        eos_token_id=encoder.stop_token_ids,
        pad_token_id=encoder.pad_token_id,
        **generate,
    )
    answers = []
    for sample, prompt, row, reference in zip(samples, prompts, ids, references, strict=True):
        fits, wanted = len(reference) <= max_new_tokens, encoder.decode(reference)
        several = sample.meta.get('references') or [wanted]
        answers.append(Answer(_text(encoder, prompt), encoder.decode(row), wanted, several, fits))
    return answers


def _text(encoder: Any, ids: Tensor) -> str:
    """A prompt to be read by people: special tokens shown, a picture as ``<IMG_CONTEXT>x256``."""
    nothing_trained = torch.full_like(ids, IGNORE_INDEX)
    return ''.join(text for text, _ in encoder.describe(Sample(ids, nothing_trained)))
