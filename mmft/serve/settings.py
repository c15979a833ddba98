"""What ``mmft serve`` can be told, and what of it cannot be."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmft.errors import ConfigError
from mmft.serve.backend import Choice, gpu_count

__all__ = ['ServeSettings', 'check_fit', 'check_settings', 'gpus']


@dataclass(frozen=True)
class ServeSettings:
    """What to serve, and how.

    Attributes:
        directory: an exported directory, or any that mmft reads; None: ``config`` and ``checkpoint``.
        config: of a training: a dict or a file.
        backend: as ``choose_backend``.
        host: where to listen; loopback is for this machine only.
        port: 0 takes any that is free.
        api_keys: one of which each request must bring; empty: none is asked for.
        tp: GPUs of one server.
        session_len: tokens of a conversation with its answer; None: as the model has it.
        max_batch_size: of LMDeploy; None: its own default.
        replicas: servers beside each other; LMDeploy's proxy goes in front of them.
        model_name: None: the directory's.
        image_root: the folder whose pictures requests may name by path; None: none.
        device, dtype: of the model.
        trust_remote_code: let LMDeploy run the Python files of an original InternVL2 directory.
        cache: of exports made in order to be served.
        queue: how many requests may wait.
        backend_args: more arguments for the backend's command line.
        echo: show what the backend prints.
    """

    directory: str | Path | None = None
    config: Any = None
    checkpoint: str | Path | None = None
    backend: str = 'auto'
    host: str = '127.0.0.1'
    port: int = 8000
    api_keys: tuple[str, ...] = ()
    tp: int = 1
    session_len: int | None = None
    max_batch_size: int | None = None
    replicas: int = 1
    model_name: str | None = None
    image_root: str | Path | None = None
    device: str = 'auto'
    dtype: str = 'auto'
    trust_remote_code: bool = False
    cache: str | Path | None = None
    queue: int = 256
    start_timeout: float = 1800.0
    backend_args: tuple[str, ...] = ()
    echo: bool = False


def check_settings(settings: ServeSettings) -> None:
    """Raise ``ConfigError`` with all settings that cannot be."""
    problems = []
    if (settings.directory is None) == (settings.config is None and settings.checkpoint is None):
        problems.append('name either a directory, or --config CONFIG --checkpoint CKPT')
    elif settings.directory is None and (settings.config is None or settings.checkpoint is None):
        problems.append('--config and --checkpoint belong together')
    for name in ('tp', 'replicas', 'queue', 'session_len', 'max_batch_size'):
        value = getattr(settings, name)
        if value is not None and value < 1:
            problems.append(f'--{name.replace("_", "-")} {value}: expected at least 1')
    if settings.image_root is not None and not Path(settings.image_root).is_dir():
        problems.append(f'--image-root {settings.image_root}: no such folder')
    if problems:
        raise ConfigError.gather(problems)


def check_fit(settings: ServeSettings, choice: Choice) -> None:
    """Raise ``ConfigError`` for settings that the chosen backend cannot follow."""
    if choice.name == 'transformers':
        for name in ('tp', 'max_batch_size'):
            if (getattr(settings, name) or 1) > 1:
                what = f'--{name.replace("_", "-")} {getattr(settings, name)} with transformers serve'
                raise ConfigError(what, expected='LMDeploy', fix='leave it out; --replicas N answers N at a time')
        return
    wanted, there = settings.tp * settings.replicas, gpu_count()
    if wanted > there:
        what = f'--tp {settings.tp} --replicas {settings.replicas} needs {wanted} GPUs'
        raise ConfigError(what, expected=f'at most {there}, which are there', fix='lower one of the two')


def gpus(settings: ServeSettings) -> int:
    """CUDA devices that may be used."""
    return 0 if settings.device == 'cpu' else gpu_count()
