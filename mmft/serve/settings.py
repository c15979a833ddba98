"""The settings of ``mmft serve``, and which of them are refused."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmft.errors import ConfigError
from mmft.serve.backends.choose import Choice, gpu_count
from mmft.serve.gateway.intake.prompt_count import session_length, text_config

__all__ = ['ServeSettings', 'check_fit', 'check_settings', 'gpus']

_DTYPES = ('auto', 'float16', 'bfloat16', 'float32')


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
        picture_hosts: whose pictures requests may name although their addresses are private.
        device, dtype: of the model.
        trust_remote_code: let LMDeploy run the Python files of an original InternVL2 directory.
        base: of an adapter directory, as for ``mmft.load``.
        allow_code: modules of the user's own that mmft's backend may import; this process has imported them.
        cache: of exports made in order to be served.
        queue: how many requests may wait.
        start_timeout: seconds that a backend may take to load its model.
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
    picture_hosts: tuple[str, ...] = ()
    device: str = 'auto'
    dtype: str = 'auto'
    trust_remote_code: bool = False
    base: str | Path | None = None
    allow_code: tuple[str, ...] = ()
    cache: str | Path | None = None
    queue: int = 256
    start_timeout: float = 1800.0
    backend_args: tuple[str, ...] = ()
    echo: bool = False


def check_settings(settings: ServeSettings) -> None:
    """Raise ``ConfigError`` with all invalid settings."""
    problems = []
    if (settings.directory is None) == (settings.config is None and settings.checkpoint is None):
        problems.append('name either a directory, or --config CONFIG --checkpoint CKPT')
    elif settings.directory is None and (settings.config is None or settings.checkpoint is None):
        problems.append('--config and --checkpoint belong together')
    for name in ('tp', 'replicas', 'queue', 'session_len', 'max_batch_size'):
        value = getattr(settings, name)
        if value is not None and value < 1:
            problems.append(f'--{name.replace("_", "-")} {value}: expected at least 1')
    if not 0 <= settings.port <= 65535:
        problems.append(f'--port {settings.port}: expected 0 (any that is free) to 65535')
    if not settings.start_timeout > 0:
        problems.append(f'--start-timeout {settings.start_timeout:g}: expected more than 0 seconds')
    if not re.fullmatch(r'auto|cpu|cuda(:\d+)?', settings.device):
        problems.append(f'--device {settings.device}: expected auto, cpu or cuda')
    if settings.dtype not in _DTYPES:
        problems.append(f'--dtype {settings.dtype}: expected one of {", ".join(_DTYPES)}')
    if settings.model_name is not None and not settings.model_name.strip():
        problems.append('--model-name is empty; leave it out for the name of the directory')
    if settings.image_root is not None and not Path(settings.image_root).is_dir():
        problems.append(f'--image-root {settings.image_root}: no such folder')
    problems += filter(None, dict.fromkeys(map(_wrong_key, settings.api_keys)))
    if problems:
        raise ConfigError.gather(problems)


def _wrong_key(key: str) -> str:
    """What is wrong with an api key; empty if nothing is. The key itself is not shown."""
    if not key.strip():  # it would let everybody in who sends none
        return '--api-key (or MMFT_API_KEY) is empty: is the variable set? For no key, leave out both'
    if key != key.strip() or not (key.isascii() and key.isprintable()):
        return '--api-key (or MMFT_API_KEY): expected ASCII without outer spaces, as nothing else passes in a header'
    return ''


def check_fit(settings: ServeSettings, choice: Choice, config: Mapping[str, Any] | None = None) -> None:
    """Raise ``ConfigError`` for settings that the chosen backend, or the model, cannot follow.

    Args:
        config: the directory's ``config.json``; None: the model is not checked.
    """
    if problems := list(_misfits(settings, choice, config or {})):
        raise ConfigError.gather(problems)
    if choice.name in ('transformers', 'mmft'):
        program = 'transformers serve' if choice.name == 'transformers' else "mmft's own backend"
        for name in ('tp', 'max_batch_size'):
            if (getattr(settings, name) or 1) > 1:
                what = f'--{name.replace("_", "-")} {getattr(settings, name)} with {program}'
                raise ConfigError(what, expected='LMDeploy', fix='leave it out; --replicas N answers N at a time')
        return
    wanted, there = settings.tp * settings.replicas, gpu_count()
    if wanted > there:
        what = f'--tp {settings.tp} --replicas {settings.replicas} needs {wanted} GPUs'
        raise ConfigError(what, expected=f'at most {there}, which are there', fix='lower one of the two')


def _misfits(settings: ServeSettings, choice: Choice, config: Mapping[str, Any]) -> Iterator[str]:
    if settings.device.startswith('cuda') and not gpu_count():
        yield f'--device {settings.device}: there is no CUDA device; leave it out, or --device cpu'
    if settings.dtype == 'float32' and choice.name not in ('transformers', 'mmft'):
        yield '--dtype float32: LMDeploy computes in float16 or bfloat16'
    text = text_config(config)
    heads = text.get('num_attention_heads') or settings.tp
    shared = text.get('num_key_value_heads') or heads  # where there are fewer than GPUs, each is on several
    if heads % settings.tp or (shared % settings.tp and settings.tp % shared):
        yield f"--tp {settings.tp}: expected a divisor of the model's heads, {heads} ({shared} of keys and values)"
    # A scaled model has room beyond its positions; how much, each kind of scaling has its own rule for.
    most, scaling = session_length(config), text.get('rope_scaling') or text.get('rope_parameters') or {}
    scaled = scaling.get('rope_type', scaling.get('type', 'default')) != 'default'
    scaled = scaled or any('rope' in argument for argument in settings.backend_args)
    if most is not None and settings.session_len is not None and settings.session_len > most and not scaled:
        yield f'--session-len {settings.session_len}: expected at most {most}, the positions that the model knows'


def gpus(settings: ServeSettings) -> int:
    """CUDA devices that may be used."""
    return 0 if settings.device == 'cpu' else gpu_count()
