"""Started by torchrun: one step of the toy model; rank 0 writes loss, gradients' norm and weights."""

from __future__ import annotations

import sys

import torch

from mmft.engine.distributed import is_main
from tests.engine.toy import toy_runner


def main(work_dir: str, batch_size: int, iters: int, launcher: str) -> None:
    torch.set_num_threads(1)
    runner = toy_runner(
        work_dir,
        {'batch_size': batch_size, 'size': 12},
        dropout=0.0,
        launcher=launcher,
        train_cfg=dict(_delete_=True, max_iters=iters),
    )
    seen: list[dict] = []
    step = runner.train_loop.train_step
    runner.train_loop.train_step = lambda group: seen.append(step(group)) or dict(seen[-1])
    runner.train()
    if is_main():
        print([round(row['loss'], 6) for row in seen])
        torch.save({'steps': seen}, f'{work_dir}/steps.pth')


if __name__ == '__main__':
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
