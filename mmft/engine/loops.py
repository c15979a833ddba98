"""The training loop: one iteration is one optimizer step over ``accumulative_counts`` micro-batches."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

import torch
from mmengine.runner import BaseLoop
from torch import Tensor
from torch.utils.data import DataLoader

from mmft.engine.compat import worker_error
from mmft.engine.out_of_memory import explained
from mmft.engine.strategies.collectives import gather, model_device, sum_over_ranks, unwrap, world_size
from mmft.errors import MMFTError, TrainingError
from mmft.registry import LOOPS
from mmft.structures import IGNORE_INDEX
from mmft.words import count_of

__all__ = ['TrainLoop', 'has_pictures', 'trained_weight']

MicroBatch = dict[str, Any]

LESS_MEMORY = (
    'lower train_dataloader.batch_size and raise optim_wrapper.accumulative_counts by as much (the result is the '
    'same), set gradient_checkpointing=True, lower encoder.image_processor.max_tiles where there are tiles, '
    "take LoRA ('lora', 'qlora' in tune.llm), or share the work among GPUs (--deepspeed zero2, zero3)"
)
LESS_MEMORY_TO_VALIDATE = 'lower val_dataloader.batch_size or val_cfg.max_new_tokens'


def trained_weight(batch: Mapping[str, Any]) -> float:
    """What a batch counts for: the (weighted) number of its trained tokens, after the shift."""
    trained = batch['labels'][:, 1:] != IGNORE_INDEX
    weight = batch.get('loss_weight')
    return float(trained.sum() if weight is None else weight[:, 1:][trained].sum())


def num_tokens(batch: Mapping[str, Any]) -> int:
    """Tokens of a batch, padding left out."""
    mask = batch.get('attention_mask')
    return int(mask.sum()) if mask is not None else batch['input_ids'].numel()


def has_pictures(batch: Mapping[str, Any]) -> bool:
    """Whether a batch holds a picture."""
    tiles = batch.get('pixel_values')
    return tiles is not None and len(tiles) > 0


@LOOPS.register_module()
class TrainLoop(BaseLoop):
    """Trains by epochs or by iterations; knows at every step boundary where the data stands.

    The loss of an iteration is the sum of its token losses divided by the number of its trained tokens, over all
    micro-batches and all ranks: every trained token counts the same. Auxiliary losses of the model, such as a router's
    ``balance_loss``, are averaged over micro-batches and ranks. An epoch is one pass of the batch sampler; its
    last, shorter group of micro-batches still makes a step.

    Args:
        runner: the runner.
        dataloader: its ``batch_sampler`` has ``set_epoch(epoch)``, ``set_start(batch)`` and a length.
        max_epochs, max_iters: how long; exactly one of them.
        val_interval: validate every so many epochs (iterations under ``max_iters``), and at the end; 0 never. None:
            after every epoch, and under ``max_iters`` every so many iterations as make an epoch.
    """

    def __init__(
        self,
        runner: Any,
        dataloader: DataLoader,
        max_epochs: int | None = None,
        max_iters: int | None = None,
        val_interval: int | None = None,
    ) -> None:
        super().__init__(runner, dataloader)
        self.by_epoch = max_iters is None
        self.accumulative_counts = runner.optim_wrapper.accumulative_counts
        self.epoch_batches = len(dataloader.batch_sampler)
        self.epoch_length = -(-self.epoch_batches // self.accumulative_counts)
        if self.epoch_length == 0:
            raise TrainingError('the training set gives no batch', fix='lower the batch size or add samples')
        self.max_iters: int = max_epochs * self.epoch_length if self.by_epoch else max_iters
        self.max_epochs: int = max_epochs if self.by_epoch else -(-max_iters // self.epoch_length)
        every = 1 if self.by_epoch else self.epoch_length
        self.val_interval, self.val_begin = every if val_interval is None else val_interval, 0
        self.epoch, self.iter = 0, 0
        self.batch = 0  # micro-batches of this epoch that are consumed
        self.validated_at = 0  # iteration of the last validation
        self.waited = 0.0  # seconds for the data of this iteration
        self.stop_training = False

    # -- the position, for checkpoints ------------------------------------------------------------------------------

    def position(self, done: int) -> dict[str, int]:
        """Where the data stands once ``done`` iterations are finished."""
        return {'epoch': self.epoch, 'batch': self.batch, 'iter': done, 'validated_at': self.validated_at}

    def start_from(self, position: Mapping[str, int]) -> None:
        """Continue from what ``position`` gave, without reading the data before it."""
        self.epoch, self.batch, self.iter = position['epoch'], position['batch'], position['iter']
        self.validated_at = position['validated_at']

    # -- the loop ---------------------------------------------------------------------------------------------------

    @property
    def finished(self) -> bool:
        """Whether nothing is left to train."""
        return self.stop_training or (self.epoch >= self.max_epochs if self.by_epoch else self.iter >= self.max_iters)

    def run(self) -> torch.nn.Module:
        """Train to the end, validating when it is due."""
        self.runner.call_hook('before_train')
        self._validate_if_due()  # a run may have been killed between a checkpoint and the validation that followed it
        while not self.finished:
            self.run_epoch()
        self.runner.call_hook('after_train')
        return self.runner.model

    def run_epoch(self) -> None:
        """The rest of the current epoch."""
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        for group in self._groups():
            self.run_iter(group)
            self._validate_if_due()
            if self.stop_training or (not self.by_epoch and self.finished):
                if self.batch < self.epoch_batches:
                    return
                break
        self.runner.call_hook('after_train_epoch')
        if self.by_epoch:
            self._validate_if_due(epoch_ends=True)
        self.epoch, self.batch = self.epoch + 1, 0

    def _groups(self) -> Iterator[list[MicroBatch]]:
        """The micro-batches of each iteration of this epoch, from ``self.batch`` on."""
        sampler = self.dataloader.batch_sampler
        sampler.set_epoch(self.epoch)
        sampler.set_start(self.batch)
        # The loader seeds its workers from this generator and leaves the global one alone: see Runner.resume.
        self.dataloader.generator.manual_seed(self.runner.data_seed + self.epoch)
        batches = iter(self.dataloader)
        try:
            while True:
                started = time.perf_counter()
                group = list(islice(batches, self.accumulative_counts))
                self.waited = time.perf_counter() - started
                if not group:
                    return
                yield group
        except MMFTError as error:
            raise worker_error(error) from None

    def run_iter(self, group: list[MicroBatch]) -> None:
        """One optimizer step, with the hooks around it."""
        index = self.batch // self.accumulative_counts
        self.runner.call_hook('before_train_iter', batch_idx=index, data_batch=group)
        started = time.perf_counter()
        with explained(lambda: self._doing(group), LESS_MEMORY):
            outputs = self.train_step(group)
        outputs['data_time'] = self.waited
        outputs['tokens_per_second'] = outputs['tokens'] / (self.waited + time.perf_counter() - started)
        self.batch += len(group)
        self.runner.call_hook('after_train_iter', batch_idx=index, data_batch=group, outputs=outputs)
        self.iter += 1

    def train_step(self, group: list[MicroBatch]) -> dict[str, float]:
        """Forward, backward and step over the micro-batches of one iteration.

        Returns:
            ``loss``, ``grad_norm`` and ``tokens`` (of all ranks), and each auxiliary loss, which ``loss`` includes.

        Raises:
            TrainingError: nothing to train in the batch, or a loss or gradient that is not a number.
        """
        model, optim = self.runner.model, self.runner.optim_wrapper
        device = model_device(model)
        named = sum(len(origins_of(batch)) for batch in group)
        pictured = sum(has_pictures(batch) for batch in group)
        counts = [sum(map(trained_weight, group)), sum(map(num_tokens, group)), named, pictured]
        items, tokens, named, pictured = sum_over_ranks(
            torch.tensor(counts, dtype=torch.float64, device=device)
        ).tolist()
        if items == 0 and named:  # on all ranks together: the error gathers the samples of each
            raise self.failure('no token of the batch is trained: its labels are all ignored', group)
        items = max(items, 1.0)  # a batch of broken pictures only (on_error='skip') makes an empty step
        losses: dict[str, Tensor] = {}
        for number, batch in enumerate(group, 1):
            # DDP averages over ranks; dividing by the items of an average rank makes that average the sum we want.
            outputs = self._backward(batch, items / world_size(), len(group), last=number == len(group))
            losses |= {name: losses.get(name, 0.0) + value for name, value in outputs.items()}
        names = sorted(losses, key=lambda name: (name != 'loss', name))  # the same order on every rank
        means = sum_over_ranks(torch.stack([losses[name] for name in names])) / world_size()
        shown = dict(zip(names, means.tolist(), strict=True))
        for name, value in shown.items():
            self._check_finite(name.replace('_', ' '), value, group)
        if not pictured:
            optim.leave_out_vision()
        norm = optim.update(lambda norm: self._check_finite('gradient norm', norm, group))
        return {**shown, 'grad_norm': norm, 'tokens': tokens}

    def _backward(self, batch: MicroBatch, items: float, micro_batches: int, last: bool) -> dict[str, Tensor]:
        model, optim = self.runner.model, self.runner.optim_wrapper
        inputs = {key: value for key, value in batch.items() if key != 'meta'}
        inputs = unwrap(model).data_preprocessor(inputs, training=True)
        with optim.micro_batch(model, last):
            with optim.autocast():
                losses = model(**inputs, mode='loss', num_items=items, micro_batches=micro_batches)
            optim.backward(losses['loss'])
        return {name: value.detach().float() for name, value in losses.items()}

    # -- validation -------------------------------------------------------------------------------------------------

    def _validate_if_due(self, epoch_ends: bool = False) -> None:
        loop = self.runner.val_loop
        if loop is None or not self.val_interval or self.iter == self.validated_at:
            return
        if self.by_epoch:
            due = epoch_ends and ((self.epoch + 1) % self.val_interval == 0 or self.epoch + 1 == self.max_epochs)
        else:
            due = self.iter % self.val_interval == 0 or self.iter == self.max_iters
        if due:
            self.validated_at = self.iter
            with explained(lambda: f'in the validation after iteration {self.iter}', LESS_MEMORY_TO_VALIDATE):
                loop.run()
            self.runner.model.train()

    # -- failures ---------------------------------------------------------------------------------------------------

    def _check_finite(self, what: str, value: float, group: list[MicroBatch]) -> None:
        if value - value != 0:  # nan or infinite
            raise self.failure(f'the {what} is {value}', group)

    def _doing(self, group: list[MicroBatch]) -> str:
        rows, longest = max(tuple(batch['input_ids'].shape) for batch in group)
        tiles = max(len(batch['pixel_values']) if has_pictures(batch) else 0 for batch in group)
        counts = (rows, 'sample'), (longest, 'token'), (tiles, 'tile')
        most = ', '.join(count_of(number, noun) for number, noun in counts)
        return f'in iteration {self.iter + 1}: micro-batches of up to {most}'

    def failure(self, what: str, group: list[MicroBatch]) -> TrainingError:
        """The error of this iteration, naming its samples on every rank."""
        origins = [place for batch in group for place in origins_of(batch)]
        samples = [place for places in gather(origins) for place in places]
        optim = self.runner.optim_wrapper
        rates = ', '.join(f'{name} {values[0]:.3g}' for name, values in optim.get_lr().items())
        return TrainingError(
            f'iteration {self.iter + 1} (epoch {self.epoch + 1}, micro-batches {self.batch + 1} to '
            f'{self.batch + len(group)}): {what}\n  samples:  {", ".join(samples) or "the batch does not name them"}\n'
            f'  computed: in {optim.dtype or "the dtype of the weights"}; {rates}',
            expected='a finite loss: the weights before this step are untouched',
            fix='look at these samples; lower the learning rate or set optim_wrapper.clip_grad; '
            "in float16 use optim_wrapper.dtype='bfloat16'; give the vision part a rate of its own",
        )


def origins_of(batch: Mapping[str, Any]) -> list[str]:
    """``file:line`` of each sample of a batch, as far as its ``meta`` tells."""
    return [f'{meta.get("file", "?")}:{meta.get("line", "?")}' for meta in batch.get('meta') or () if meta]
