"""A model, a data set and an encoder as small as can be, which keep the contracts that the engine counts on."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.model import BaseDataPreprocessor, BaseModel
from torch import nn
from torch.utils.data import DataLoader, Dataset

from mmft.data.batches.collate import PadCollator
from mmft.data.batches.sampler import EpochBatchSampler
from mmft.structures import IGNORE_INDEX, Sample

VOCAB, WIDTH, STOP = 24, 16, 1


class ToyVLM(BaseModel):
    """Three named parts, dropout, the features of its one tile added to each row's text; next-token prediction."""

    def __init__(self, dropout: float = 0.2) -> None:
        super().__init__(data_preprocessor=BaseDataPreprocessor())
        self.vision = nn.Linear(12, WIDTH)
        self.projector = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH))
        self.llm = nn.ModuleDict(
            {
                'embed': nn.Embedding(VOCAB, WIDTH),
                'dropout': nn.Dropout(dropout),
                'body': nn.Linear(WIDTH, WIDTH),
                'head': nn.Linear(WIDTH, VOCAB, bias=False),
            }
        )
        self.vision.requires_grad_(False)

    def logits(self, input_ids: torch.Tensor, pixel_values: torch.Tensor | None) -> torch.Tensor:
        x = self.llm['embed'](input_ids)
        if pixel_values is not None:
            x = x + self.projector(self.vision((pixel_values.float().flatten(1) / 255).to(x.dtype)))[:, None]
        x = x + torch.tanh(self.llm['body'](self.llm['dropout'](x)))
        return self.llm['head'](x)

    def forward(self, input_ids, labels=None, pixel_values=None, mode='loss', num_items=None, loss_weight=None, **kw):
        if mode == 'predict':
            ids, made = input_ids, []
            for _ in range(kw['max_new_tokens']):
                made.append(self.logits(ids, pixel_values)[:, -1].argmax(-1, keepdim=True))
                ids = torch.cat([ids, made[-1]], 1)
            return torch.cat(made, 1)
        logits = self.logits(input_ids, pixel_values)
        if mode == 'tensor':
            return logits
        targets = labels[:, 1:].flatten()
        total = nn.functional.cross_entropy(
            logits[:, :-1].flatten(0, 1).float(), targets, ignore_index=IGNORE_INDEX, reduction='sum'
        )
        return {'loss': total / (num_items or (targets != IGNORE_INDEX).sum())}


class ToyEncoder:
    """Numbers as text."""

    pad_token_id, stop_token_ids = 0, [STOP]

    def decode(self, ids: Any) -> str:
        ids = torch.as_tensor(ids).tolist()
        return ' '.join(map(str, ids[: ids.index(STOP)] if STOP in ids else ids))

    def describe(self, sample: Sample) -> list[tuple[str, bool]]:
        pairs = zip(sample.input_ids.tolist(), sample.labels.tolist(), strict=True)
        return [(f'{i} ', label != IGNORE_INDEX) for i, label in pairs]

    def render_mask(self, sample: Sample) -> str:
        return ''.join(f'[{text}]' if trained else text for text, trained in self.describe(sample))

    def to_dict(self) -> dict[str, Any]:
        return {'format': 1, 'kind': 'toy'}


class ToyData(Dataset):
    """Sample i: a question of varying length and its answer (i mod 7, stop), with one tile. Reading is logged."""

    def __init__(self, size: int = 22, log: str | None = None, bad: int | None = None) -> None:
        self.size, self.log, self.bad = size, log, bad

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, i: int) -> Sample:
        if self.log:
            with open(self.log, 'a') as file:
                file.write(f'{i}\n')
        rng = torch.Generator().manual_seed(i)
        question = torch.randint(3, VOCAB, (2 + i % 5,), generator=rng)
        answer = torch.tensor([*[3 + i % 7] * (1 + i % 4), STOP])
        labels = torch.cat([torch.full_like(question, IGNORE_INDEX), answer])
        tiles = torch.randint(0, 256, (1, 3, 2, 2), generator=rng, dtype=torch.uint8)
        sample = Sample(
            torch.cat([question, answer]), labels, tiles, [1], [(2, 2)], {'file': 'toy.jsonl', 'line': i + 1}
        )
        if i == self.bad:
            sample.pixel_values = torch.full((1, 3, 2, 2), float('nan'))
        return sample


def toy_loader(size: int = 22, batch_size: int = 2, workers: int = 0, training: bool = True, **data: Any) -> DataLoader:
    from mmft.engine.validation import WithSamples

    dataset = ToyData(size, **data)
    collate = PadCollator()
    return DataLoader(
        dataset,
        batch_sampler=EpochBatchSampler(dataset, batch_size, shuffle=training, seed=3),
        collate_fn=collate if training else WithSamples(collate),
        num_workers=workers,
        generator=torch.Generator(),
    )


def toy_config(work_dir: str | Path, **changes: Any) -> Config:
    cfg = Config(
        dict(
            model=dict(type='ToyVLM'),
            train_dataloader=dict(dataset=dict()),
            work_dir=str(work_dir),
            train_cfg=dict(max_epochs=2),
            optim_wrapper=dict(
                type='OptimWrapper',
                optimizer=dict(type='AdamW', lr=1e-2, weight_decay=0.05),
                accumulative_counts=3,
                clip_grad=dict(max_norm=1.0),
            ),
            param_scheduler=dict(type='cosine', warmup_ratio=0.3),
            default_hooks=dict(progress=dict(interval=1)),
            seed=0,
        )
    )
    cfg.merge_from_dict(changes)
    return cfg


def toy_runner(
    work_dir: str | Path, loader: dict | None = None, val: bool = False, dropout: float = 0.2, **changes: Any
):
    from mmft.engine import Runner
    from mmft.engine.compat import init_distributed

    cfg = toy_config(work_dir, **changes)
    if cfg.get('launcher', 'none') != 'none' and not torch.distributed.is_initialized():
        init_distributed(cfg.launcher)  # the sampler asks for rank and world size when it is made
    torch.manual_seed(11)
    model = ToyVLM(dropout)
    val_loader = toy_loader(6, training=False) if val else None
    return Runner(cfg, model, ToyEncoder(), toy_loader(**(loader or {})), val_loader)


def train(work_dir: str, loader: dict, kill_in: int = 0, kill_at_sync: int = 0, **options: Any) -> None:
    """Train in this process, and SIGKILL it before the step of iteration ``kill_in`` or at a write to the disk."""
    torch.set_num_threads(1)
    runner = toy_runner(work_dir, loader, **options)
    if kill_in:
        runner.register_hook(KillHook(kill_in))
    if kill_at_sync:
        _kill_at_sync(kill_at_sync)
    runner.train()


class KillHook(Hook):
    def __init__(self, iteration: int) -> None:
        self.iteration = iteration

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        if runner.iter + 1 == self.iteration:
            os.kill(os.getpid(), signal.SIGKILL)


def _kill_at_sync(number: int) -> None:
    calls, sync = [], os.fsync

    def counting(handle: int) -> None:
        calls.append(handle)
        if len(calls) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        sync(handle)

    os.fsync = counting
