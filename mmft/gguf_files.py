"""GGUF files, llama.cpp's format: what one must be before transformers reads it, and the error where it cannot."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

from mmft.disk import is_lfs_pointer
from mmft.errors import CheckpointError, ConfigError, first_line
from mmft.missing import missing
from mmft.words import clipped, printable

__all__ = ['check_gguf', 'is_gguf', 'unreadable_gguf']


def is_gguf(path: str | Path) -> bool:
    """Whether a path names a GGUF file, by its ending."""
    return str(path).lower().endswith('.gguf')


def check_gguf(path: Path) -> None:
    """Raise an error unless a GGUF file is there and the package that reads it too."""
    if not os.path.isfile(path):  # false, too, for names that no file can have
        raise missing(path, 'a GGUF file')
    with open(path, 'rb') as stream:
        head = stream.read(8)
    if head[:4] != b'GGUF':
        why = 'it is a git-lfs pointer' if is_lfs_pointer(path) else f'it begins with {head[:4]!r}'
        raise CheckpointError(
            f'{printable(path)} is no GGUF file: {why}', expected='GGUF in its first bytes', fix='download it again'
        )
    if importlib.util.find_spec('gguf') is None:
        raise ConfigError(f'{printable(path)} needs gguf, which is not installed', fix="pip install 'mmft[gguf]'")


def unreadable_gguf(path: Path, error: Exception) -> CheckpointError:
    """The error for a GGUF file that transformers or gguf refused, or that is cut off or damaged."""
    text = clipped(first_line(error))
    if 'not supported' in text:
        expected, fix = 'a language model that transformers reads from GGUF', 'take its safetensors instead'
    else:
        expected, fix = 'a whole GGUF file of version 2 or 3', 'download it again'
    return CheckpointError(f'{printable(path)} cannot be read: {text}', expected=expected, fix=fix)
