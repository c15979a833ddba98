"""What the ``.pth`` of a training holds, checked where it is read: ``mmft/engine/training_state.py`` has its keys."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmft.checkpoint.config_0_1 import config_of_0_1
from mmft.errors import CheckpointError
from mmft.files.foreign_checkpoints import is_mmengines, of_xtuner
from mmft.plain_json import is_json
from mmft.words import clipped

__all__ = ['checked_content']


def checked_content(content: Any, path: Path) -> dict[str, Any]:
    """What ``torch.load`` gave, checked, a checkpoint of 0.1 in the form of today's.

    Args:
        content: with anything in the place of tensors.

    Raises:
        CheckpointError: this is no training checkpoint of mmft; says what in it is something else.
    """
    if is_mmengines(content):
        raise of_xtuner(path)
    if not isinstance(content, Mapping) or not {'state_dict', 'meta'} <= content.keys():
        wrong = f'{path} is not a training checkpoint of mmft'
    elif found := next(_wrong(content), None):
        wrong = f'{path} is not a training checkpoint of mmft, or is damaged: {found}'
    else:
        meta = content['meta']
        config = meta.get('config') or {}
        config = config_of_0_1(config) if isinstance(config, str) else config
        return {**content, 'meta': {**meta, 'config': config}}
    raise CheckpointError(
        wrong,
        expected="a .pth with 'state_dict' and 'meta', as training writes it",
        fix='pass iter_*.pth of a work_dir; a model directory needs no conversion: mmft.load reads it',
    )


def _wrong(content: Mapping[str, Any]) -> Iterator[str]:
    state, meta, encoder = content['state_dict'], content['meta'], content.get('encoder')
    if not isinstance(state, Mapping) or not all(isinstance(name, str) for name in state):
        yield 'state_dict is not a dict of names'
    if not isinstance(meta, Mapping):
        yield 'meta is not a dict'
        return
    if encoder is not None and not isinstance(encoder, Mapping):
        yield 'encoder is not a dict'
    tune, base, names = meta.get('tune') or {}, meta.get('base'), meta.get('initialised') or []
    if not isinstance(tune, Mapping) or not all(
        isinstance(part, Mapping) and isinstance(part.get('type'), str) for part in tune.values()
    ):
        yield f'meta.tune is {clipped(repr(tune))}'
    if base is not None and not (
        isinstance(base, Mapping) and isinstance(base.get('fingerprint'), str) and isinstance(base.get('path'), _PATHS)
    ):
        yield f'meta.base is {clipped(repr(base))}'
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) and name in state for name in names):
        yield 'meta.initialised does not list tensors of state_dict'
    config = meta.get('config')
    if not isinstance(config, (Mapping, str, type(None))) or not is_json(config):
        yield 'meta.config is not a dict of plain JSON'


_PATHS = (str, Mapping)
