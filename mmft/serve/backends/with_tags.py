"""``with_tags``: a directory whose answers keep their tags, whatever else its tokenizer marks as special.

Backends leave every special token out of an answer, and ``transformers serve`` has no switch for that. Exports of mmft
mark only control tokens (``mmft.layouts.tokenizer_files``); InternVL3's own directories also mark ``<ref>`` and
``<box>``. Such a directory, and one whose tokenizer appends an end token to prompts, is served from a folder of links
to its files, in which only the tokenizer's files are new.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmft.checkpoint.encoder import load_encoder
from mmft.errors import MMFTError
from mmft.export.cache import default_cache
from mmft.layouts.tokenizer_files import served_tokenizer, served_tokenizer_config
from mmft.words import clipped

__all__ = ['with_tags']

_CHANGES = {
    'tokenizer.json': served_tokenizer,
    'tokenizer_config.json': served_tokenizer_config,
    'special_tokens_map.json': served_tokenizer_config,
}


def with_tags(path: Path, cache: str | os.PathLike | None, log: Callable[[str], None]) -> Path:
    """The directory itself, or one that serves it with all text in its answers.

    Args:
        path: a directory that a backend serves as it is.
        cache: where a folder of links goes; None: ``default_cache()``.
        log: called with a line when there is one.
    """
    try:
        encoder = load_encoder(path, 1)
        texts = {name: (path / name).read_text(encoding='utf-8') for name in _CHANGES if (path / name).is_file()}
        own, changed = json.loads(texts['tokenizer.json']), {}
        for name, text in texts.items():
            changed[name] = _CHANGES[name](json.loads(text), encoder)
        hidden = [token['content'] for token in own['added_tokens']
                  if token['special'] and token['id'] not in encoder.control_ids]  # fmt: skip
    except (MMFTError, OSError, ValueError, LookupError, TypeError, AttributeError):
        return path  # it has no tokenizer.json, or something is wrong with it, which is reported where it is checked
    if changed['tokenizer.json'] == own:
        return path
    view = _linked(path, Path(cache) if cache is not None else default_cache(), changed)
    shown = clipped(', '.join(map(repr, hidden)))
    why = f'would hide the tokens {shown} in answers' if hidden else 'would spoil prompts or answers'
    log(f'the tokenizer of {path} {why}: serving {view}, with its files corrected')
    return view


def _linked(path: Path, cache: Path, changed: dict[str, Any]) -> Path:
    texts = {name: json.dumps(content, ensure_ascii=False, indent=2) + '\n' for name, content in changed.items()}
    mark = hashlib.sha256(repr((str(path.resolve()), sorted(texts.items()))).encode()).hexdigest()[:12]
    view = cache / f'tags-{mark}' / path.resolve().name  # backends look at the name
    view.mkdir(parents=True, exist_ok=True)
    for file in path.iterdir():
        link, text = view / file.name, texts.get(file.name)
        fresh = link.with_name(f'.{file.name}.{os.getpid()}')
        if text is None:
            fresh.symlink_to(file.resolve())
        else:
            fresh.write_text(text, encoding='utf-8')
        os.replace(fresh, link)
    return view
