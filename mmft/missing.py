"""The error for a path at which there is nothing: similar names, and what to do with the name of a model on a hub."""

from __future__ import annotations

import os
import re
from pathlib import Path

from mmft.errors import CheckpointError
from mmft.words import clipped, near_names, printable, suggested

__all__ = ['MODEL_EXPECTED', 'absent', 'listed', 'missing', 'nearest']

MODEL_EXPECTED = 'a model directory, with config.json, weights and the files of a tokenizer'
_HUB_NAME = re.compile(r'\w[\w.-]*/\w[\w.-]*')
_FOLDERS = ('pretrained', 'work_dirs')  # where configs expect weights and runs: no owners on a hub
_FILES = ('.safetensors', '.bin', '.pth', '.pt', '.py', '.json', '.model')


def missing(path: Path, expected: str = MODEL_EXPECTED) -> CheckpointError:
    """The error for a directory that does not exist; mmft downloads none by itself."""
    why, fix = absent(path)
    return CheckpointError(f'{clipped(path, 300)} is not a directory: {why}', expected=expected, fix=fix)


def absent(path: Path, fix: str = 'check the path, and the directory that you are in') -> tuple[str, str]:
    """Why there is nothing at a path, and what to do: ``fix``, where neither a near name nor a hub's is better."""
    why = 'there is no directory and no file of this name'
    if os.path.islink(path):
        why = f'it is a link to {printable(path.readlink())}, which is missing'
    elif near := nearest(path):
        fix = suggested(near, form=printable)
    elif _is_hub_name(path):
        why += '. It may be the name of a model on a hub; mmft downloads nothing by itself'
        fix = (
            f'hf download {path} --local-dir pretrained/{path.name}, then name pretrained/{path.name}. With '
            f'HF_ENDPOINT=URL it asks a mirror; many models are on ModelScope too: '
            f'modelscope download --model {path} --local_dir pretrained/{path.name}'
        )
    return why, fix


def _is_hub_name(path: Path) -> bool:
    named = _HUB_NAME.fullmatch(str(path)) and path.parts[0] not in _FOLDERS and path.suffix not in _FILES
    return bool(named) and not os.path.exists(path.parent)


def nearest(path: Path) -> list[str]:
    """Directories and checkpoints whose names are similar to that of a path that does not exist."""
    if os.path.isdir(path.parent):
        there = [p.name for p in listed(path.parent) if p.is_dir() or p.suffix == '.pth']
        return [str(path.parent / name) for name in near_names(path.name, there, 3, 0.5)]
    above = path.parent.parent
    there = [p.name for p in listed(above) if os.path.exists(p / path.name)]
    return [str(above / name / path.name) for name in near_names(path.parent.name, there, 3, 0.5)]


def listed(folder: Path) -> list[Path]:
    """What lies in a folder, sorted; nothing where it cannot be read."""
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []
