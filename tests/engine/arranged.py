"""A tiny LLaVA-NeXT with a mixture-of-experts projector in training: arranged tiles, text-only samples, two losses."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from mmft.data.batches.collate import PadCollator
from mmft.data.batches.sampler import EpochBatchSampler
from mmft.engine.strategies.collectives import is_main
from mmft.engine.validation import WithSamples
from mmft.geometry import arranged_tokens
from mmft.models import VLM
from mmft.structures import IGNORE_INDEX, Sample
from tests.engine.toy import ToyEncoder, toy_config

SIDE, SLOT = 28, 60
GRIDS = [(2, 1), (1, 2), (0, 0)]


def tiny_model(frozen: bool = False) -> VLM:
    torch.manual_seed(11)
    model = VLM(
        {'type': 'InternViT', 'hidden_size': 16, 'num_hidden_layers': 1, 'num_attention_heads': 2,
         'intermediate_size': 16, 'image_size': SIDE, 'patch_size': 14},
        {'type': 'MoEMLP', 'balance_coef': 0.3},
        {'type': 'Llama', 'vocab_size': 64, 'hidden_size': 16, 'intermediate_size': 24, 'num_hidden_layers': 1,
         'num_attention_heads': 2, 'num_key_value_heads': 1, 'pad_token_id': 0},
        image_token_id=SLOT,
        merge={'type': 'AnyResMerge'},
    )  # fmt: skip
    model.llm.requires_grad_(not frozen)
    return model


class Pictures(Dataset):
    """Sample i: no, one or two arranged pictures, then a question and an answer of varying length."""

    num_images = np.arange(8) % 3

    def __len__(self) -> int:
        return 8

    def __getitem__(self, i: int) -> Sample:
        rng = torch.Generator().manual_seed(i)
        grids = [GRIDS[(i + k) % 3] for k in range(i % 3)]
        sizes = [(30 + 7 * i, 25 + 9 * k) for k in range(i % 3)]
        counts = [1 + columns * rows for columns, rows in grids]
        places = [arranged_tokens(size, grid, 4) for size, grid in zip(sizes, grids, strict=True)]
        slots = sum(places)
        text = torch.randint(3, 50, (5 + i,), generator=rng)
        ids = torch.cat([torch.full((slots,), SLOT), text])
        labels = torch.where(torch.arange(len(ids)) < slots + 2, IGNORE_INDEX, ids)
        tiles = torch.randint(256, (sum(counts), 3, SIDE, SIDE), generator=rng, dtype=torch.uint8) if counts else None
        return Sample(ids, labels, tiles, counts, sizes, {'file': 'made.jsonl', 'line': i + 1}, grids, places)


def runner(work_dir: str, accumulate: int, launcher: str = 'none', frozen: bool = False, **changes: Any):
    from mmft.engine import Runner
    from mmft.engine.compat import init_distributed

    cfg = toy_config(
        work_dir,
        launcher=launcher,
        train_cfg=dict(_delete_=True, max_iters=2),
        val_cfg=dict(max_samples=4, max_new_tokens=2),
        default_hooks=dict(checkpoint=dict(interval=2, by_epoch=False)),
        **changes,
    )
    cfg.optim_wrapper.accumulative_counts = accumulate
    if launcher != 'none' and not torch.distributed.is_initialized():
        init_distributed(launcher)
    data = Pictures()
    loaders = [
        DataLoader(
            data,
            batch_sampler=EpochBatchSampler(data, 1, shuffle=False),
            collate_fn=collate,
            generator=torch.Generator(),
        )
        for collate in (PadCollator(), WithSamples(PadCollator()))
    ]
    return Runner(cfg, tiny_model(frozen), ToyEncoder(), *loaders)


def train(work_dir: str, accumulate: int, launcher: str = 'none', **changes: Any) -> list[dict[str, float]]:
    """Train two iterations; what each ``train_step`` returned, also in steps.pth."""
    torch.set_num_threads(1)
    run, seen = runner(work_dir, accumulate, launcher, **changes), []
    step = run.train_loop.train_step
    run.train_loop.train_step = lambda group: seen.append(step(group)) or dict(seen[-1])
    run.train()
    if is_main():
        torch.save(seen, f'{work_dir}/steps.pth')
        torch.save(run.history, f'{work_dir}/history.pth')
    return seen


if __name__ == '__main__':
    train(f'{sys.argv[1]}/ddp', 2, 'pytorch')
    train(f'{sys.argv[1]}/zero3', 2, 'pytorch', deepspeed='zero3')
    train(f'{sys.argv[1]}/frozen_ddp', 2, 'pytorch', frozen=True)
    for stage in ('zero1', 'zero2', 'zero3'):
        train(f'{sys.argv[1]}/frozen_{stage}', 2, 'pytorch', frozen=True, deepspeed=stage)
