"""Which checkpoint a run continues, and whether it may."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mmft.checks import is_whole
from mmft.engine.run_folder import (
    POINTER,
    candidates,
    find_last,
    iteration_of,
    newest_first,
    read_checkpoint,
    read_pointer,
)
from mmft.errors import CheckpointError
from mmft.files.foreign_checkpoints import foreign_training
from mmft.files.path_errors import not_one_run

__all__ = ['check_resumable', 'read_resumable', 'stored_seed']

_OF_THE_START = ('resume', 'launcher', 'work_dir')
"""Settings that say how a run is started, and differ whenever it is resumed."""


def read_resumable(
    work_dir: str | Path, path: str | Path | None, logger: logging.Logger
) -> tuple[Path, dict[str, Any]] | None:
    """The checkpoint to continue and its content.

    Args:
        path: a checkpoint, or a directory of them; None looks into ``work_dir``.

    Returns:
        None where ``work_dir`` holds none and none was named. Damaged files are passed over with a warning as long as
        an earlier good one exists.
    """
    if path is not None and (not Path(path).is_dir() or foreign_training(Path(path))):
        return Path(path), read_checkpoint(path)
    directory = Path(path or work_dir)
    newest = find_last(directory)
    if newest is None:
        if path is None:
            return None
        nothing = CheckpointError(f'no checkpoint in {directory}', expected='files iter_N.pth')
        raise not_one_run(directory) or nothing
    pointer, (name, run) = directory / POINTER, read_pointer(directory)
    if pointer.exists() and (name is None or not (run or (directory / name).is_file())):
        why = 'cannot be read' if name is None else f'names {name}, which is not there'
        logger.warning(f'{pointer} {why}: resuming the last checkpoint of the last run there, {newest.name}')
    files = _from(newest, directory)
    for number, file in enumerate(files):
        try:
            return file, read_checkpoint(file)
        except CheckpointError as error:
            if number == len(files) - 1:
                raise
            logger.warning(f'{error}\nfalling back on {files[number + 1].name}')
    return None


def _from(newest: Path, directory: Path) -> list[Path]:
    """The checkpoint to continue, and those to fall back on."""
    return [newest, *newest_first(f for f in candidates(directory) if iteration_of(f) < iteration_of(newest))]


def stored_seed(work_dir: str | Path, resume: bool | str) -> int | None:
    """The seed of the run that ``resume`` of a config continues; None where there is nothing to continue.

    No tensor is read, and no problem reported: both are ``read_resumable``'s, when the run is set up.
    """
    files = [Path(resume)] if isinstance(resume, str) else []
    if not files or files[0].is_dir():
        directory = files[0] if files else Path(work_dir)
        newest = find_last(directory)
        files = [] if newest is None else _from(newest, directory)
    for file in files:
        try:
            return read_checkpoint(file, mmap=True)['meta'].get('seed')
        except CheckpointError:
            continue
    return None


def check_resumable(
    path: Path, content: Mapping[str, Any], here: Mapping[str, Any], warn: Callable[[str], None]
) -> None:
    """Refuse a checkpoint that this run cannot continue; say what differs where it can.

    Args:
        path: the checkpoint.
        content: what is in it.
        here: what a checkpoint of this run says of how it is set up (``Runner.setup``).
        warn: called with harmless differences.

    Raises:
        CheckpointError: another base, other trained tensors, or a position in data of another order.
    """
    if 'optimizer' not in content or 'position' not in content:
        raise CheckpointError(f'{path} holds weights only', fix='use init_from to start a new run with these weights')
    if wrong := _malformed(content):
        raise CheckpointError(
            f'{path} does not say where a run stood: {", ".join(wrong)}',
            expected='a checkpoint as mmft writes it',
            fix='take another one of the same folder, or use init_from to start a new run with its weights',
        )
    _check_base(path, content['meta'].get('base'), here['meta']['base'])
    _check_parameters(path, content['param_names'], here['param_names'])
    _check_order(path, content['position'], here['position']['order'], warn)
    _compare_backgrounds(content.get('encoder'), here['encoder'], warn)
    before, now = (dict(_settings(config)) for config in (content['meta']['config'], here['meta']['config']))
    changes = [
        f'{name}: {before.get(name, "nothing")} in the checkpoint, {now.get(name, "nothing")} now'
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name) and name.partition('.')[0] not in _OF_THE_START
    ]
    if changes:
        warn('the config is not the one of the checkpoint:\n' + '\n'.join(changes))


def _settings(value: Any, name: str = '') -> Iterator[tuple[str, str]]:
    """Each setting of a config by its path, as text: ``('model.llm.type', "'Llama'")``."""
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _settings(item, f'{name}.{key}' if name else key)
    else:
        yield name, repr(value)


def _compare_backgrounds(
    before: Mapping[str, Any] | None, now: Mapping[str, Any] | None, warn: Callable[[str], None]
) -> None:
    """0.1 dropped alpha, and no line of its configs says so."""
    if before and now is not None and (was := before.get('background')) != (is_now := now.get('background')):
        warn(
            f'transparent pictures were laid on background {was} (None: alpha was dropped), and are on {is_now} now: '
            f'encoder.background={was} goes on as before'
        )


def _malformed(content: Mapping[str, Any]) -> list[str]:
    """Entries of a checkpoint that resuming needs and that are missing or of another type."""
    kinds = {'optimizer': dict, 'param_names': list, 'rng': list, 'position': dict}
    wrong = [key for key, kind in kinds.items() if not isinstance(content.get(key), kind)]
    kinds = {'config': dict, 'history': list, 'best': dict}
    wrong += [f'meta.{key}' for key, kind in kinds.items() if not isinstance(content['meta'].get(key), kind)]
    rows = {'rng': content.get('rng'), 'meta.history': content['meta'].get('history')}
    wrong += [key for key, row in rows.items() if key not in wrong and not all(isinstance(item, dict) for item in row)]
    if 'position' in wrong:
        return wrong
    position = content['position']
    wrong += [f'position.{k}' for k in ('epoch', 'batch', 'iter', 'validated_at') if not is_whole(position.get(k), 0)]
    if not isinstance(position.get('order'), dict) or not is_whole(position['order'].get('batches'), 0):
        wrong.append('position.order')
    return wrong


def _check_base(path: Path, was: Mapping[str, Any] | None, base: Mapping[str, Any] | None) -> None:
    before, now = ((of or {}).get('fingerprint') for of in (was, base))
    if before != now:
        raise CheckpointError(
            f'{path} was trained on another base: {(was or {}).get("path", "random weights")} ({str(before)[:12]}), '
            f'not {(base or {}).get("path", "random weights")} ({str(now)[:12]})',
            expected='the same base weights',
            fix='set `pretrained` to the base of the checkpoint',
        )


def _check_parameters(path: Path, before: list[list[str]], now: list[list[str]]) -> None:
    flat_before, flat_now = ({name for names in groups for name in names} for groups in (before, now))
    lost, new = sorted(flat_before - flat_now), sorted(flat_now - flat_before)
    if not lost and not new:
        return
    raise CheckpointError(
        f'{path} trained other parameters: {len(lost)} that the model does not train now ({lost[:2]}), '
        f'{len(new)} new ({new[:2]})',
        expected='the same `tune`, and the same parts in optim_wrapper.paramwise_cfg',
        fix='take the config from the work_dir of that run, or start a new run with init_from',
    )


def _check_order(path: Path, position: Mapping[str, Any], now: Mapping[str, Any], warn: Callable[[str], None]) -> None:
    before = position['order']
    # Files of earlier versions say less.
    changed = {key: (before[key], value) for key, value in now.items() if key in before and before[key] != value}
    if not changed:
        return
    differs = ', '.join(f'{key.replace("_", " ")} was {old}, is {new}' for key, (old, new) in changed.items())
    if 0 < position['batch'] < before['batches']:
        raise CheckpointError(
            f'{path} stands in the middle of an epoch whose data came in another order: {differs}',
            expected='the same data, batch size, accumulation, seed and number of processes',
            fix='put them back, resume a checkpoint at the end of an epoch, or start a new run with init_from',
        )
    warn(f'the data is not what it was: {differs}')
