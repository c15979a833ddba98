"""Which processes a server is made of, and how the gateway asks each."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable

from mmft.machine import cpu_count
from mmft.ports import free_port
from mmft.serve.backends.child_process import Child
from mmft.serve.backends.choose import (
    Choice,
    devices,
    lmdeploy_command,
    mmft_command,
    proxy_command,
    transformers_command,
)
from mmft.serve.backends.directory_check import LLAVA, ServedDirectory
from mmft.serve.backends.fleet import Fleet, Member
from mmft.serve.gateway.dialects import LMDeployDialect, MmftDialect, TransformersDialect
from mmft.serve.gateway.upstream import Upstream
from mmft.serve.settings import ServeSettings, gpus

__all__ = ['build_fleet']

_ENV = {
    'HF_HUB_OFFLINE': '1',
    'HF_HUB_DISABLE_UPDATE_CHECK': '1',  # transformers' command line asks PyPI for its newest version
    'TOKENIZERS_PARALLELISM': 'false',
}
_BATCH = 256  # LMDeploy's largest default


def build_fleet(
    settings: ServeSettings, served: ServedDirectory, choice: Choice, name: str, log: Callable[[str], None]
) -> Fleet:
    """The processes, not started yet.

    Args:
        name: of the model.
        log: called with a line when a process ends or starts.
    """
    ports = [free_port() for _ in range(settings.replicas)]
    if choice.name in ('transformers', 'mmft'):
        make = _mmft if choice.name == 'mmft' else _transformers
        members = [make(settings, served, number, port) for number, port in enumerate(ports)]
        return Fleet(members, None, settings.start_timeout, log)
    # A name of this run: LMDeploy's proxy remembers servers of earlier ones. (One with a dash in front is an option.)
    dialect = LMDeployDialect(
        f'{name.lstrip("-")}-{uuid.uuid4().hex[:8]}',
        greedy=_greedy(served),
        pictures_first=served.architecture == LLAVA,
        extra=('response_format',) if choice.name == 'turbomind' else ('response_format', 'logit_bias'),
    )
    slots = 2 * (
        settings.max_batch_size or _BATCH
    )  # while one batch is answered, the pictures of the next are prepared
    proxy = _proxy(settings, dialect, slots * settings.replicas) if settings.replicas > 1 else None
    members, path = [], served.path.absolute()  # as of _transformers
    for number, port in enumerate(ports):
        command = lmdeploy_command(
            path, choice.name, dialect.model, port, settings.tp, settings.session_len, settings.max_batch_size,
            settings.dtype, proxy.child.url if proxy else '', settings.trust_remote_code, settings.backend_args,
        )  # fmt: skip
        env = {**_ENV, 'CUDA_VISIBLE_DEVICES': devices(number, settings.tp)} if proxy else _ENV
        child = Child(_label('LMDeploy', settings, number), command, _url(port), env, settings.echo)
        upstream = None if proxy else Upstream(child.url, dialect, slots)
        members.append(Member(child, upstream, registered=proxy is not None))
    return Fleet(members, proxy, settings.start_timeout, log)


def _transformers(settings: ServeSettings, served: ServedDirectory, number: int, port: int) -> Member:
    # The whole path: a directory's name may begin with a dash, and would be an option.
    path = served.path.absolute()
    command = transformers_command(path, port, settings.device, settings.dtype, settings.backend_args)
    child = Child(
        _label('transformers serve', settings, number), command, _url(port), _shared(settings, number), settings.echo
    )
    # It answers one question after the other; meanwhile the pictures of a second one are prepared.
    dialect = TransformersDialect(str(path), _greedy(served))
    return Member(child, Upstream(child.url, dialect, slots=2))


def _mmft(settings: ServeSettings, served: ServedDirectory, number: int, port: int) -> Member:
    path = served.path.absolute()  # as of _transformers
    command = mmft_command(
        path, port, settings.device, settings.dtype, settings.base, settings.allow_code, settings.backend_args
    )
    child = Child(_label('mmft', settings, number), command, _url(port), _shared(settings, number), settings.echo)
    return Member(child, Upstream(child.url, MmftDialect(), slots=1))


def _shared(settings: ServeSettings, number: int) -> dict[str, str]:
    """The environment of one of several servers of a whole model each: its GPU, or its share of the cores."""
    env = dict(_ENV)
    if gpus(settings) > 1:
        env['CUDA_VISIBLE_DEVICES'] = devices(number % gpus(settings), 1)
    if not gpus(settings) and settings.replicas > 1 and 'OMP_NUM_THREADS' not in os.environ:
        # torch takes all cores for each process, and several such processes are slower than one.
        env['OMP_NUM_THREADS'] = str(max(1, cpu_count() // settings.replicas))
    return env


def _greedy(served: ServedDirectory) -> bool:
    return not served.json('generation_config.json').get('do_sample')


def _proxy(settings: ServeSettings, dialect: LMDeployDialect, slots: int) -> Member:
    port = free_port()
    child = Child("LMDeploy's proxy", proxy_command(port), _url(port), _ENV, settings.echo, ready='/nodes/status')
    return Member(child, Upstream(child.url, dialect, slots))


def _label(kind: str, settings: ServeSettings, number: int) -> str:
    return f'{kind} {number + 1}' if settings.replicas > 1 else kind


def _url(port: int) -> str:
    return f'http://127.0.0.1:{port}'
