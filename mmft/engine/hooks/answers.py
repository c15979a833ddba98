"""Sample answers at intervals: the quickest way to see that a run goes wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmengine.hooks import Hook

from mmft.engine.strategies.collectives import is_main, unwrap
from mmft.evaluation.answers import Answer, answer_samples
from mmft.registry import HOOKS
from mmft.words import clipped

__all__ = ['SampleAnswersHook']


@HOOKS.register_module()
class SampleAnswersHook(Hook):
    """Prints a few generated answers beside the right ones: after every validation, and every ``interval`` iterations.

    Args:
        interval: iterations; 0: with validations only.
        num_samples: how many answers.
        max_new_tokens: longest answer.
    """

    priority = 'LOW'

    def __init__(self, interval: int = 0, num_samples: int = 3, max_new_tokens: int = 64) -> None:
        self.interval, self.num_samples, self.max_new_tokens = interval, num_samples, max_new_tokens

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Mapping[str, Any] | None = None
    ) -> None:
        if not self.interval or (runner.iter + 1) % self.interval or runner.encoder is None:
            return
        loop = runner.val_loop or runner.train_loop
        dataset = loop.dataloader.dataset
        samples = [dataset[i] for i in range(min(self.num_samples, len(dataset)))]
        samples = [sample for sample in samples if sample is not None]
        if not samples:
            return
        model = unwrap(runner.model)
        model.eval()
        with runner.optim_wrapper.autocast():
            answers = answer_samples(model, runner.encoder, samples, self.max_new_tokens)
        model.train()
        self.show(runner, answers, runner.iter + 1)

    def after_val_epoch(self, runner: Any, metrics: Mapping[str, float] | None = None) -> None:
        self.show(runner, runner.val_loop.answers[: self.num_samples], runner.iter)

    def show(self, runner: Any, answers: list[Answer], done: int) -> None:
        """Log them."""
        if answers and is_main():
            lines = [
                f'  {"right" if a.right else "wrong":<6}{_end(a.prompt)!r}\n'
                f'        answer {a.answer!r}, expected {_expected(a)}'
                for a in answers
            ]
            runner.logger.info(f'answers after iter {done}:\n' + '\n'.join(lines))


def _expected(answer: Answer) -> str:
    different = list(dict.fromkeys(answer.references))
    return repr(different[0]) if len(different) == 1 else f'one of {clipped(different)}'


def _end(prompt: str, most: int = 80) -> str:
    text = ' '.join(prompt.split())
    return text if len(text) <= most else '...' + text[-most:]
