"""What a path is that should be a model and is not: one error for it, whichever reader or command met it."""

from __future__ import annotations

import os
import re
from pathlib import Path

from mmft.disk import is_lfs_pointer, lfs_pointer
from mmft.errors import CheckpointError, first_line
from mmft.files.foreign_checkpoints import foreign_training
from mmft.missing import MODEL_EXPECTED, listed, missing
from mmft.words import clipped, count_of, printable, suggested

__all__ = ['not_a_model', 'not_one_run', 'unreadable']

_WEIGHTS = ('.safetensors', '.bin', '.pth', '.pt')
_CHECKPOINT = re.compile(r'best\.pth|iter_(\d+)\.pth')
_STARTED = re.compile(r'\d{8}_\d{6}')  # the folder of a log
_ARCHIVES = ('.zip', '.tar', '.gz', '.tgz', '.bz2', '.xz', '.zst', '.7z', '.rar')


def not_a_model(path: str | Path) -> CheckpointError:
    """The error for a path that cannot be read as a model directory."""
    path = Path(path)
    # os.path's functions are false for names that no file can have, which pathlib's raise.
    if os.path.isdir(path):
        return _folder(path)
    return _file(path) if os.path.exists(path) else missing(path)


def unreadable(file: Path, error: Exception, fix: str = 'download it again') -> CheckpointError:
    """The error for a file of weights that a library could not read, which its own words seldom explain."""
    expected, name = 'safetensors, or tensors and plain values as torch.save writes them', printable(file)
    if is_lfs_pointer(file):
        return lfs_pointer(file)
    try:
        with open(file, 'rb') as stream:
            head = stream.read(512).lstrip().lower()
    except OSError as reason:  # missing, a directory, no permission
        return CheckpointError(
            f'{name} cannot be read: {reason.strerror}', expected='a weight file', fix='check the path'
        )
    if not head:
        why = 'it is empty'
    elif head.startswith((b'<!doctype', b'<html', b'<?xml')):
        why, fix = 'it is a web page, saved under the name of a weight file', 'download the file itself'
    elif 'central directory' in str(error) or 'EOF' in str(error):
        why = 'it is cut off or damaged'
    else:
        why = clipped(first_line(error))
    return CheckpointError(f'{name} cannot be read: {why}', expected=expected, fix=fix)


def _file(path: Path) -> CheckpointError:
    name, suffix = printable(path), path.suffix.lower()
    if is_lfs_pointer(path):
        return lfs_pointer(path)
    if suffix in ('.pth', '.pt'):
        fix = f'a checkpoint of a training becomes a directory with mmft pth_to_hf {name} OUT'
    elif suffix in _WEIGHTS:
        fix = f'name the directory that it lies in: {printable(path.parent)}'
    elif suffix == '.py':
        fix = 'this is a config: name a checkpoint after it, as CONFIG CKPT'
    elif suffix in _ARCHIVES:
        fix = 'unpack it, and name the directory'
    elif suffix == '.gguf':
        fix = f'as the language model of parts it is read: pretrained=dict(llm={str(path)!r}, vision=...)'
    else:
        fix = 'name a directory'
    return CheckpointError(f'{name} is a file, not a model directory', expected=MODEL_EXPECTED, fix=fix)


def _folder(path: Path) -> CheckpointError:
    what = f'no config.json in {printable(path)}'
    children = listed(path)
    if (other := foreign_training(path) or not_one_run(path)) is not None:
        return other
    models = ('config.json', 'adapter_config.json')
    inside = [p for p in (*children, *path.glob('snapshots/*')) if any((p / name).is_file() for name in models)]
    if not children:
        what, fix = f'{what}: the directory is empty', 'download the model into it, or check the path'
    elif any(_CHECKPOINT.fullmatch(p.name) for p in children):
        fix = f'this is the folder of a training: mmft pth_to_hf {printable(path)} OUT makes a model directory of it'
    elif inside:
        fix = suggested([*map(str, inside[:3])], form=printable)
    elif any(p.suffix in _WEIGHTS for p in children):
        fix = 'there are weights: download config.json and the other small files of the model too'
    else:
        fix = 'check the path; download all files of the model into it'
    return CheckpointError(what, expected=MODEL_EXPECTED, fix=fix)


def not_one_run(path: Path) -> CheckpointError | None:
    """The error for a folder of several trainings, or of one without a checkpoint; None where it is neither."""
    children = listed(path)
    if any(_CHECKPOINT.fullmatch(p.name) for p in children):
        return None
    found = [p for way in ('*/*.pth', '*/*/*.pth') for p in sorted(path.glob(way)) if _CHECKPOINT.fullmatch(p.name)]
    best: dict[Path, Path] = {}
    for file in sorted(found, key=_preference):
        best[file.parent] = file
    if best:
        named = [f'{folder} ({file.name})' for folder, file in sorted(best.items())]
        named += [f'{p} (a model directory)' for p in children if (p / 'config.json').is_file()]
        more = f' and {len(named) - 5} more' if named[5:] else ''
        return CheckpointError(
            f'{printable(path)} holds {count_of(len(best), "training")}, and no model or checkpoint of its own',
            expected='the folder of one training, which stands for its best or last checkpoint, or a model directory',
            fix=f'name one: {printable(", ".join(named[:5]))}{more}',
        )
    if (path / 'last_checkpoint').is_file() or any(_STARTED.fullmatch(p.name) and p.is_dir() for p in children):
        return CheckpointError(
            f'{printable(path)} is the folder of a training that has saved no checkpoint',
            expected='best.pth or iter_N.pth in it',
            fix='let it train up to its first checkpoint (default_hooks.checkpoint), or name another folder',
        )
    return None


def _preference(checkpoint: Path) -> tuple[bool, int]:
    """Best first of all, else the later one: the last of what this sorts."""
    number = _CHECKPOINT.fullmatch(checkpoint.name)[1]
    return number is None, int(number or 0)
