"""``open_answerer``: an ``Answerer`` for a model directory, a config with its checkpoint, or the URL of a server.

Which of the two kinds it is decides what is imported: torch and transformers are not needed to ask a server.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from mmft.export.model_path import Target, find_target, is_url
from mmft.talk.answerer import Answerer
from mmft.words import printable

__all__ = ['check_target', 'open_answerer']


def open_answerer(
    target: Target,
    base: str | os.PathLike | None = None,
    *,
    device: str | None = None,
    dtype: str = 'auto',
    api_key: str | None = None,
    model: str | None = None,
    timeout: float = 600.0,
) -> Answerer:
    """An answerer for a model directory, a config with its checkpoint, or a server.

    Args:
        target: a directory that ``mmft.load`` reads; a checkpoint, the folder of a training, or ``(config,
            checkpoint)``, which are exported first, into a cache; or the ``http(s)://`` address of an
            OpenAI-compatible server, with or without ``/v1``.
        base: of a LoRA directory, as for ``mmft.load``.
        device: of a model in this process; None: the GPU, if there is one.
        dtype: of its weights; ``auto`` keeps what is stored.
        api_key: of a server.
        model: which of a server's models; None: the only one it has.
        timeout: seconds that a server may be silent.

    Raises:
        CheckpointError: a directory that cannot be read.
        ServerError: nothing answers at this address, or not as an OpenAI-compatible server would.
    """
    target = find_target(target)
    if is_url(target):
        from mmft.talk.remote_answerer import RemoteAnswerer

        return RemoteAnswerer(str(target), api_key=api_key, model=model, timeout=timeout)
    from mmft.talk.local_answerer import LocalAnswerer

    if isinstance(target, tuple):
        name = '/'.join(Path(target[1]).parts[-2:])
        return LocalAnswerer(_exported(target), device=device, dtype=dtype, name=name)
    return LocalAnswerer(target, base, device=device, dtype=dtype)


def check_target(
    target: Target,
    base: str | os.PathLike | None = None,
    *,
    device: str | None = None,
    dtype: str = 'auto',
    api_key: str | None = None,
    model: str | None = None,
) -> None:
    """Whether ``open_answerer`` opens this, as far as that shows without reading weights: before hours of other work.

    Args:
        target, base, device, dtype, api_key, model: as of ``open_answerer``.

    Raises:
        MMFTError: as ``open_answerer``. Weights of a wrong shape are found only when they are read.
    """
    target = find_target(target)
    if is_url(target):
        from mmft.talk.remote_answerer import RemoteAnswerer

        RemoteAnswerer(str(target), api_key=api_key, model=model).check()
        return
    from mmft.talk.local_answerer import check_loadable

    exported = isinstance(target, tuple)
    check_loadable(_exported(target) if exported else target, None if exported else base, device, dtype)


def _exported(target: tuple[Any, str | os.PathLike]) -> Path:
    from mmft.export.cache import cached_export

    # Standard output is for answers.
    return cached_export(*target, native=True, log=lambda line: print(printable(line), file=sys.stderr))
