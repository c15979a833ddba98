"""Started by torchrun: the toy model trains a few steps; rank 0 writes their losses and gradient norms."""

from __future__ import annotations

import json
import sys
from typing import Any

import torch

from mmft.engine.strategies.collectives import is_main
from tests.engine.toy import toy_runner


def main(work_dir: str, batch_size: int, iters: int, launcher: str, **options: Any) -> None:
    torch.set_num_threads(1)
    runner = toy_runner(
        work_dir,
        {'batch_size': batch_size, 'size': 12},
        dropout=0.0,
        launcher=launcher,
        val=True,
        train_cfg=dict(_delete_=True, max_iters=iters, val_interval=iters),
        default_hooks=dict(checkpoint=dict(interval=1, by_epoch=False)),
        **options,
    )
    seen: list[dict] = []
    step = runner.train_loop.train_step
    runner.train_loop.train_step = lambda group: seen.append(step(group)) or dict(seen[-1])
    runner.train()
    if is_main():
        torch.save({'steps': seen, 'history': runner.history}, f'{work_dir}/steps.pth')


if __name__ == '__main__':
    for options in map(json.loads, sys.argv[5:]):
        work_dir = sys.argv[1] + options.pop('folder', '')
        main(work_dir, int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], **options)
