"""Validation while training: loss per token and per answer, what the pictures do to it, metrics of the answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from mmengine.runner import BaseLoop
from torch import nn
from torch.utils.data import DataLoader

from mmft.engine.exchange import measure
from mmft.engine.loops import trained_weight
from mmft.engine.strategies.collectives import gather, model_device, sum_over_ranks, unwrap
from mmft.evaluation.answers import Answer, answer_samples
from mmft.evaluation.metrics import Metric, build_metrics, normalize_answer
from mmft.registry import LOOPS
from mmft.structures import IGNORE_INDEX, Sample
from mmft.words import clipped, count_of

__all__ = ['ValLoop', 'WithSamples', 'metrics_of']

OWN = ('loss', 'nats_per_answer', 'loss_own', 'loss_exchanged', 'iter', 'epoch')
"""What validations are logged and kept with beside the metrics of the answers."""


def metrics_of(settings: Mapping[str, Any]) -> dict[str, Metric]:
    """The metrics that ``val_cfg`` asks for, by name; exact match by default.

    Raises:
        ConfigError: as ``build_metrics``.
    """
    return build_metrics(settings.get('metrics', ['exact_match']), taken=OWN)


class WithSamples:
    """A collate function that keeps the samples beside their batch: generation needs each prompt by itself."""

    def __init__(self, collate: Callable[[list[Sample]], dict[str, Any]]) -> None:
        self.collate = collate

    def __call__(self, samples: list[Sample | None]) -> tuple[dict[str, Any], list[Sample]]:
        return self.collate(samples), [sample for sample in samples if sample is not None]


def _num_answers(sample: Sample) -> int:
    """Runs of trained labels."""
    trained = sample.labels != IGNORE_INDEX
    return int((trained[1:] & ~trained[:-1]).sum()) + int(trained[0])


class _Spread:
    """Samples with pictures, spread evenly over a stream of samples.

    Args:
        most: how many are kept.
        total: about how many will come.
    """

    def __init__(self, most: int, total: int) -> None:
        self.most, self.step, self.seen = most, max(1, total // max(most, 1)), 0
        self.kept: list[Sample] = []

    def add(self, samples: Sequence[Sample]) -> None:
        """Take in the next samples."""
        for sample in samples:
            if self.seen % self.step == 0 and len(self.kept) < self.most and sample.pixel_values is not None:
                self.kept.append(sample)
            self.seen += 1


@LOOPS.register_module()
class ValLoop(BaseLoop):
    """One pass over the validation set.

    Args:
        runner: the runner.
        dataloader: gives ``(batch, samples)``, see ``WithSamples``; each rank its share.
        max_samples: how many samples (of all ranks) are answered by generation; None all, 0 none.
        max_new_tokens: longest answer.
        exchanged_samples: with how many samples (of all ranks, spread over the set) pictures are exchanged, see
            ``mmft.engine.exchange``; 0 none. Each costs two passes.
        metrics: of the answers: names of ``METRICS``, or dicts with such a name as ``type``.

    Attributes:
        answers: of the last run, on every rank those of all ranks.
    """

    def __init__(
        self,
        runner: Any,
        dataloader: DataLoader,
        max_samples: int | None = None,
        max_new_tokens: int = 64,
        exchanged_samples: int = 64,
        metrics: Sequence[str | Mapping[str, Any]] = ('exact_match',),
    ) -> None:
        super().__init__(runner, dataloader)
        self.max_samples, self.max_new_tokens, self.exchanged_samples = max_samples, max_new_tokens, exchanged_samples
        self.metrics = metrics_of({'metrics': metrics})
        self.answers: list[Answer] = []

    def run(self) -> dict[str, float]:
        """Validate.

        Returns:
            ``loss`` per trained token, the mean of each metric (0 to 1) where answers are generated,
            ``nats_per_answer``, and where pictures are exchanged ``loss_own`` and ``loss_exchanged`` per token of those
            samples.
        """
        runner = self.runner
        for stage in ('before_val', 'before_val_epoch'):
            runner.call_hook(stage)
        model = unwrap(runner.model)
        model.eval()
        sums, answers = torch.zeros(3, dtype=torch.float64), []
        pictured = _Spread(self._share(self.exchanged_samples), self._share(len(self.dataloader.dataset)))
        for index, (batch, samples) in enumerate(self.dataloader):
            runner.call_hook('before_val_iter', batch_idx=index, data_batch=batch)
            sums += torch.tensor([*self._loss(model, batch), sum(map(_num_answers, samples))], dtype=torch.float64)
            pictured.add(samples)
            answers += self._answers(model, samples, len(answers))
            runner.call_hook('after_val_iter', batch_idx=index, data_batch=batch, outputs=None)
        device = model_device(model)
        total, count, replies = sum_over_ranks(sums.to(device)).tolist()
        metrics = {'loss': total / max(count, 1.0)}
        self.answers = [answer for share in gather(answers) for answer in share]
        if self.answers:
            for name, metric in self.metrics.items():
                scores = [metric(answer.answer, answer.references) for answer in self.answers]
                metrics[name] = sum(scores) / len(scores)
            self._warn_of_one_answer()
            self._warn_of_long_references()
        metrics['nats_per_answer'] = total / max(replies, 1.0)
        metrics |= self._exchange(model, pictured.kept)
        runner.call_hook('after_val_epoch', metrics=metrics)
        runner.call_hook('after_val')
        return metrics

    @torch.no_grad()
    def _loss(self, model: nn.Module, batch: Mapping[str, Any]) -> tuple[float, float]:
        """Summed loss and trained tokens."""
        inputs = model.data_preprocessor({key: value for key, value in batch.items() if key != 'meta'})
        with self.runner.optim_wrapper.autocast():
            loss = model(**inputs, mode='loss', num_items=1.0)['loss']
        return float(loss), trained_weight(batch)

    def _exchange(self, model: nn.Module, samples: list[Sample]) -> dict[str, float]:
        """The loss with own and with others' pictures, logged; a collective call."""
        collate, token = self.dataloader.collate_fn.collate, getattr(model, 'image_token_id', None)
        exchange = measure(samples, token, lambda sample: self._loss(model, collate([sample])))
        if exchange is None:
            return {}
        line = (
            f'{count_of(len(exchange.pairs), "sample")} with pictures: loss {exchange.own:.3f} with their own, '
            f"{exchange.exchanged:.3f} with each other's"
        )
        if exchange.nothing:
            self.runner.logger.warning(
                f'{line}: the pictures change nothing. The model answers from the text alone: look at the projector '
                f'(does it train, or where was it loaded from?), and whether the answers need the pictures'
            )
        else:
            self.runner.logger.info(line)
        return {'loss_own': exchange.own, 'loss_exchanged': exchange.exchanged}

    def _warn_of_one_answer(self) -> None:
        """Where every question gets the same answer, and should not."""
        given, wanted = (
            {normalize_answer(text) for text in texts}
            for texts in zip(*((answer.answer, answer.reference) for answer in self.answers), strict=True)
        )
        if len(given) == 1 and len(wanted) > 1:
            every = count_of(len(self.answers), 'answer')
            self.runner.logger.warning(
                f'all {every} of the validation are the same: {clipped(self.answers[0].answer)!r}'
            )

    def _warn_of_long_references(self) -> None:
        """Where an answer cannot be right because it is cut off."""
        if longer := sum(not answer.fits for answer in self.answers):
            self.runner.logger.warning(
                f'val_cfg.max_new_tokens={self.max_new_tokens} is less than {longer:,} of '
                f'{count_of(len(self.answers), "reference")} {"has" if longer == 1 else "have"}: those answers are cut '
                'off and count as wrong. Raise it.'
            )

    def _share(self, number: int) -> int:
        """Of a number of samples, those of this rank."""
        return -(-number // self.runner.world_size)

    def _answers(self, model: nn.Module, samples: list[Sample], done: int) -> list[Answer]:
        if self.runner.encoder is None:
            return []
        share = None if self.max_samples is None else self._share(self.max_samples) - done
        samples = samples[:share] if share is None or share > 0 else []
        if not samples:
            return []
        with self.runner.optim_wrapper.autocast():
            return answer_samples(model, self.runner.encoder, samples, self.max_new_tokens)
