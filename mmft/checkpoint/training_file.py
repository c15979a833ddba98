"""What the ``.pth`` of a training holds, checked where it is read: ``mmft/engine/training_state.py`` has its keys."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmft.errors import CheckpointError
from mmft.files.foreign_checkpoints import is_mmengines, of_xtuner
from mmft.words import clipped

__all__ = ['check_training_file']


def check_training_file(content: Any, path: Path) -> None:
    """Raise ``CheckpointError`` for what is no training checkpoint of mmft; says what in it is something else.

    Args:
        content: what ``torch.load`` gave, with anything in the place of tensors.
    """
    if is_mmengines(content):
        raise of_xtuner(path)
    if not isinstance(content, Mapping) or not {'state_dict', 'meta'} <= content.keys():
        wrong = f'{path} is not a training checkpoint of mmft'
    elif found := next(_wrong(content), None):
        wrong = f'{path} is not a training checkpoint of mmft, or is damaged: {found}'
    else:
        return
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
    if not isinstance(meta.get('config') or '', str):
        yield 'meta.config is not text'


_PATHS = (str, Mapping)
