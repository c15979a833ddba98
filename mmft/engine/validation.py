"""Validation while training: loss per trained token and exact match of generated answers."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.runner import BaseLoop
from torch import Tensor, nn
from torch.utils.data import DataLoader

from mmft.data.collate import pictures
from mmft.engine.distributed import gather, model_device, sum_over_ranks, unwrap
from mmft.engine.loops import trained_weight
from mmft.registry import LOOPS
from mmft.structures import IGNORE_INDEX, Sample

__all__ = ['Answer', 'ValLoop', 'WithSamples', 'answer_samples', 'normalize_answer', 'question_of']


@dataclass(slots=True)
class Answer:
    """A generated answer beside the one in the data."""

    prompt: str
    answer: str
    reference: str

    @property
    def right(self) -> bool:
        """Exact match after ``normalize_answer``."""
        return normalize_answer(self.answer) == normalize_answer(self.reference)


class WithSamples:
    """A collate function that keeps the samples beside their batch: generation needs each prompt by itself."""

    def __init__(self, collate: Callable[[list[Sample]], dict[str, Any]]) -> None:
        self.collate = collate

    def __call__(self, samples: list[Sample | None]) -> tuple[dict[str, Any], list[Sample]]:
        return self.collate(samples), [sample for sample in samples if sample is not None]


def normalize_answer(text: str) -> str:
    """Case, width, spaces and a final full stop do not count.

    >>> normalize_answer(' Rice  Noodle Rolls. ')
    'rice noodle rolls'
    """
    return ' '.join(unicodedata.normalize('NFKC', text).casefold().split()).rstrip('.。')


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
    device = model_device(model)
    if any(hasattr(parameter, 'ds_id') for parameter in model.parameters()):
        generate['synced_gpus'] = True  # ZeRO-3: every rank has to run as many forward passes as the longest answer
    prompts, references = zip(*(question_of(sample) for sample in samples), strict=True)
    longest = max(map(len, prompts))
    input_ids = torch.full((len(prompts), longest), encoder.pad_token_id or 0)
    attention_mask = torch.zeros(len(prompts), longest, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        input_ids[row, longest - len(prompt) :] = prompt
        attention_mask[row, longest - len(prompt) :] = 1
    inputs = {'input_ids': input_ids, 'attention_mask': attention_mask, **pictures(samples)}
    ids = model(
        **model.data_preprocessor({key: value.to(device) for key, value in inputs.items() if value is not None}),
        mode='predict',
        max_new_tokens=max_new_tokens,
        do_sample=False,
        eos_token_id=encoder.stop_token_ids,
        pad_token_id=encoder.pad_token_id,
        **generate,
    )
    return [
        Answer(_text(encoder, prompt), encoder.decode(row), encoder.decode(reference))
        for prompt, row, reference in zip(prompts, ids, references, strict=True)
    ]


def _text(encoder: Any, ids: Tensor) -> str:
    """A prompt to be read by people: special tokens shown, a picture as ``<IMG_CONTEXT>x256``."""
    nothing_trained = torch.full_like(ids, IGNORE_INDEX)
    return ''.join(text for text, _ in encoder.describe(Sample(ids, nothing_trained)))


@LOOPS.register_module()
class ValLoop(BaseLoop):
    """One pass over the validation set.

    Args:
        runner: the runner.
        dataloader: gives ``(batch, samples)``, see ``WithSamples``; each rank its share.
        max_samples: how many samples (of all ranks) are answered by generation; None all, 0 none.
        max_new_tokens: longest answer.

    Attributes:
        answers: of the last run, on every rank those of all ranks.
    """

    def __init__(
        self, runner: Any, dataloader: DataLoader, max_samples: int | None = None, max_new_tokens: int = 64
    ) -> None:
        super().__init__(runner, dataloader)
        self.max_samples, self.max_new_tokens = max_samples, max_new_tokens
        self.answers: list[Answer] = []

    def run(self) -> dict[str, float]:
        """Validate.

        Returns:
            ``loss`` per trained token, and ``exact_match`` (0 to 1) where answers are generated.
        """
        runner = self.runner
        for stage in ('before_val', 'before_val_epoch'):
            runner.call_hook(stage)
        model = unwrap(runner.model)
        model.eval()
        sums, answers = torch.zeros(2, dtype=torch.float64), []
        for index, (batch, samples) in enumerate(self.dataloader):
            runner.call_hook('before_val_iter', batch_idx=index, data_batch=batch)
            sums += self._loss(model, batch)
            answers += self._answers(model, samples, len(answers))
            runner.call_hook('after_val_iter', batch_idx=index, data_batch=batch, outputs=None)
        device = model_device(model)
        total, count = sum_over_ranks(sums.to(device)).tolist()
        metrics = {'loss': total / max(count, 1.0)}
        self.answers = [answer for share in gather(answers) for answer in share]
        if self.answers:
            metrics['exact_match'] = sum(answer.right for answer in self.answers) / len(self.answers)
        runner.call_hook('after_val_epoch', metrics=metrics)
        runner.call_hook('after_val')
        return metrics

    @torch.no_grad()
    def _loss(self, model: nn.Module, batch: Mapping[str, Any]) -> Tensor:
        inputs = model.data_preprocessor({key: value for key, value in batch.items() if key != 'meta'})
        with self.runner.optim_wrapper.autocast():
            loss = model(**inputs, mode='loss', num_items=1.0)['loss']
        return torch.tensor([float(loss), trained_weight(batch)], dtype=torch.float64)

    def _answers(self, model: nn.Module, samples: list[Sample], done: int) -> list[Answer]:
        if self.runner.encoder is None:
            return []
        share = None if self.max_samples is None else -(-self.max_samples // self.runner.world_size) - done
        samples = samples[:share] if share is None or share > 0 else []
        if not samples:
            return []
        with self.runner.optim_wrapper.autocast():
            return answer_samples(model, self.runner.encoder, samples, self.max_new_tokens)
