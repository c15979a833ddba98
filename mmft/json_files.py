"""JSON files that hold an object: read with errors that say what is wrong with them, written as people read them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mmft.disk import is_lfs_pointer, lfs_pointer
from mmft.errors import CheckpointError, first_line

__all__ = ['read_json', 'write_json']


def read_json(path: Path, optional: bool = False) -> dict[str, Any]:
    """A JSON file that holds an object.

    Args:
        optional: where there is no such file, it is empty.

    Raises:
        CheckpointError: it is missing, cannot be read, or holds something else.
    """
    if optional and not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
    except FileNotFoundError:
        raise CheckpointError(
            f'no {path.name} in {path.parent}',
            expected='a model directory',
            fix='check the path; download all files of the model into it',
        ) from None
    except OSError as error:  # a directory of that name, or no permission
        raise CheckpointError(
            f'{path} cannot be read: {error.strerror}', expected='a JSON file', fix='check its permissions'
        ) from error
    except (ValueError, RecursionError) as error:  # no JSON, no UTF-8, numbers or nesting beyond Python's limits
        if is_lfs_pointer(path):
            raise lfs_pointer(path) from None
        raise CheckpointError(f'{path}: not valid JSON: {first_line(error)}', fix='download the file again') from error
    if not isinstance(content, dict):
        raise CheckpointError(
            f'{path} holds a {type(content).__name__}', expected='a JSON object', fix='download the file again'
        )
    return content


def write_json(path: Path, content: Any) -> None:
    """A JSON file as people read it."""
    path.write_text(json.dumps(content, ensure_ascii=False, indent=2) + '\n', encoding='utf-8')
