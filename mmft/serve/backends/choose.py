"""Which backend serves a directory, and the command lines of the backends."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

from mmft.errors import CheckpointError, ConfigError
from mmft.serve.backends.directory_check import ENGINES, Problem, ServedDirectory, check_directory
from mmft.serve.backends.support import support_of

__all__ = ['WANTED', 'Choice', 'choose_backend', 'devices', 'gpu_count', 'installed', 'lmdeploy_command',
           'mmft_command', 'proxy_command', 'transformers_command']  # fmt: skip

WANTED = ('auto', 'lmdeploy', *ENGINES, 'mmft')
"""The values of ``--backend``; ``lmdeploy``: whichever of its two engines runs the model."""


class Choice(NamedTuple):
    """What serves.

    Attributes:
        name: ``turbomind`` or ``pytorch``, the engines of LMDeploy, ``transformers``, or ``mmft``.
        reason: in one line.
    """

    name: str
    reason: str


def gpu_count() -> int:
    """How many CUDA devices there are."""
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def installed() -> str:
    """LMDeploy's version; empty where it is not installed."""
    try:
        return version('lmdeploy')
    except PackageNotFoundError:
        return ''


def choose_backend(
    path: str | Path, wanted: str = 'auto', gpus: int | None = None, problems: Sequence[Problem] | None = None
) -> Choice:
    """LMDeploy where there is a GPU and it really runs the model, else ``transformers serve``.

    LMDeploy's own choice between its engines looks at the outer class only, and so takes TurboMind for an InternVL with
    Phi3 in it, which then fails.

    Args:
        path: the directory.
        wanted: one of ``WANTED``. gpus: how many there are; None: looked up.
        problems: of ``check_directory``; None: it is called here.

    Raises:
        ConfigError: no backend, or not the one that is wanted; with everything that is wrong.
    """
    if wanted not in WANTED:
        raise ConfigError(f'backend {wanted!r}', expected=f'one of {", ".join(WANTED)}')
    if wanted == 'mmft':
        return Choice('mmft', 'mmft itself, since it was asked for')
    problems = check_directory(path) if problems is None else problems
    if everywhere := [str(problem) for problem in problems if problem.stops.issuperset(ENGINES)]:
        raise ConfigError.gather([ConfigError(f'{path} cannot be served: {text}') for text in everywhere])
    stopped = {engine: [str(problem) for problem in problems if engine in problem.stops] for engine in ENGINES}
    try:
        row = support_of(ServedDirectory(path).config)
    except CheckpointError as error:  # such as a language model without its name, which transformers does not need
        stopped['turbomind'].append(error.what)
        stopped['pytorch'].append(error.what)
    else:
        for engine, reasons in stopped.items():
            reasons += [reason] if (reason := getattr(row, engine)) else []
    if wanted != 'transformers':
        engine, reason = _lmdeploy(wanted, gpu_count() if gpus is None else gpus, stopped)
        if engine:
            return Choice(engine, reason)
        if wanted != 'auto':
            raise ConfigError(f'--backend {wanted}: {reason}', fix='--backend auto takes what there is')
    else:
        reason = 'it was asked for'
    if stopped['transformers']:
        also = f'\n(and not LMDeploy, since {reason})' if wanted == 'auto' else ''
        texts = [f'transformers serve cannot serve {path}: {text}{also}' for text in stopped['transformers']]
        raise ConfigError.gather([ConfigError(text) for text in texts])
    return Choice('transformers', f'transformers serve, since {reason}')


def _lmdeploy(wanted: str, gpus: int, stopped: Mapping[str, Sequence[str]]) -> tuple[str, str]:
    """(its engine or an empty string, why)."""
    if not installed():
        return '', 'LMDeploy is not installed (pip install lmdeploy)'
    if not gpus:
        return '', 'there is no CUDA device, which LMDeploy needs'
    engines = [wanted] if wanted in ENGINES else ['turbomind', 'pytorch']
    possible = [engine for engine in engines if not stopped[engine]]
    if not possible:
        return '', '; '.join(dict.fromkeys(text for engine in reversed(engines) for text in stopped[engine]))
    there = 'there is a GPU' if gpus == 1 else f'there are {gpus} GPUs'
    if possible[0] == 'turbomind':
        return 'turbomind', f"LMDeploy's TurboMind engine, since {there}"
    why = f' and {stopped["turbomind"][0]}' if stopped['turbomind'] else ', as asked for'
    return 'pytorch', f"LMDeploy's PyTorch engine, since {there}{why}"


def devices(replica: int, tp: int) -> str:
    """``CUDA_VISIBLE_DEVICES`` of one of several servers of ``tp`` GPUs each."""
    given = os.environ.get('CUDA_VISIBLE_DEVICES', '')
    visible = given.split(',') if given else [str(number) for number in range((replica + 1) * tp)]
    return ','.join(visible[replica * tp : (replica + 1) * tp])


def transformers_command(
    directory: str | Path, port: int, device: str = 'auto', dtype: str = 'auto', more: Sequence[str] = ()
) -> list[str]:
    """``transformers serve``."""
    return [
        sys.executable, '-m', 'transformers.cli.transformers', 'serve', str(directory), '--host', '127.0.0.1',
        '--port', str(port), '--device', device, '--dtype', dtype, '--log-level', 'error', *more,
    ]  # fmt: skip


def mmft_command(
    directory: str | Path,
    port: int,
    device: str = 'auto',
    dtype: str = 'auto',
    base: str | Path | None = None,
    code: Sequence[str] = (),
    more: Sequence[str] = (),
) -> list[str]:
    """mmft's own backend.

    Args:
        code: modules of the user's own that it may import, which this process has imported.
    """
    options = [f'--base={base}'] if base is not None else []
    for name in code:
        options += [f'--allow-code={name}', f'--code-path={_found_in(name)}']
    return [
        sys.executable, '-m', 'mmft.serve.backends.mmft_server', str(directory), '--port', str(port),
        '--device', device, '--dtype', dtype, *options, *more,
    ]  # fmt: skip


def _found_in(module: str) -> Path:
    """The directory that a module's top package was imported from."""
    top = sys.modules[module.partition('.')[0]]
    place = Path(top.__file__ or next(iter(top.__path__))).resolve()
    return place.parents[1] if place.stem == '__init__' else place.parent


def lmdeploy_command(
    directory: str | Path,
    engine: str,
    name: str,
    port: int,
    tp: int = 1,
    session_len: int | None = None,
    max_batch_size: int | None = None,
    dtype: str = 'auto',
    proxy_url: str = '',
    trust_remote_code: bool = False,
    more: Sequence[str] = (),
) -> list[str]:
    """``lmdeploy serve api_server``. TurboMind is its own choice where the model allows it; PyTorch has to be named."""
    options: list[str] = ['--backend', engine, '--model-name', name, '--tp', str(tp), '--dtype', dtype]
    options += ['--session-len', str(session_len)] if session_len else []
    options += ['--max-batch-size', str(max_batch_size)] if max_batch_size else []
    options += ['--proxy-url', proxy_url] if proxy_url else []
    options += ['--trust-remote-code'] if trust_remote_code else []
    return [
        sys.executable, '-m', 'lmdeploy', 'serve', 'api_server', str(directory), '--server-name', '127.0.0.1',
        '--server-port', str(port), *options, *more,
    ]  # fmt: skip


def proxy_command(port: int) -> list[str]:
    """``lmdeploy serve proxy``; it keeps no memory of servers of earlier runs."""
    return [
        sys.executable, '-m', 'lmdeploy', 'serve', 'proxy', '--server-name', '127.0.0.1', '--server-port', str(port),
        '--disable-cache-status', '--log-level', 'WARNING',
    ]  # fmt: skip
