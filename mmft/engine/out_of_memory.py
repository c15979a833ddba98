"""A GPU that is too small or too full, explained in a sentence: at what, who holds the memory, what to change."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from mmft.errors import TrainingError

__all__ = ['explained']


@contextmanager
def explained(doing: Callable[[], str], fix: str) -> Iterator[None]:
    """Turn torch's error into one of ours.

    Args:
        doing: what was going on, asked for when it went wrong.
        fix: what needs less.

    Raises:
        TrainingError: out of GPU memory.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise TrainingError(
            f'out of GPU memory {doing()}{_held()}',
            expected='what fits (--dry-run estimates the memory of a step)',
            fix=fix,
        ) from error


def _held() -> str:
    if not torch.cuda.is_available():
        return ''
    (free, whole), own = torch.cuda.mem_get_info(), torch.cuda.memory_reserved()
    gib = 2**30
    return (
        f'\n  of {whole / gib:.1f} GiB of the GPU this process holds {own / gib:.1f}, '
        f'others {max(0, whole - free - own) / gib:.1f} (CUDA itself included)'
    )
