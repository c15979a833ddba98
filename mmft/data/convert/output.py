"""What every converter writes: one ``.jsonl`` a part and ``report.json``, all of them or none, every record counted."""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from mmft.data.records.splits import write_text
from mmft.errors import ConfigError, DataError

__all__ = ['LEFT_OUT', 'Output', 'chat_record', 'progress', 'require']

logger = logging.getLogger('mmft')

LEFT_OUT = 'left_out.jsonl'
"""Where the records that ``on_error='skip'`` left out are named, one a line."""

_LOGGED = 5  # of each reason; LEFT_OUT has them all


class Output:
    """The files of one conversion. Used as a context: they get their names when it ends well, else nothing is left.

    Args:
        folder: where to write; made when the first record comes.
        image_root: what the picture paths of the records are relative to.
        parts: the files that this conversion may write; an old one of these that stays empty is removed.
        on_error: ``raise``, or ``skip`` to leave bad records out, counted and named in ``LEFT_OUT``.

    Attributes:
        counts: records written, by part and kind.
        left_out: records left out, by reason.
        changed: what was corrected or chosen on the way, by what it was.
        notes: further entries of the report.
    """

    def __init__(
        self, folder: Path, image_root: Path, parts: Sequence[str] = ('train', 'val'), on_error: str = 'raise'
    ) -> None:
        if on_error not in ('raise', 'skip'):
            raise ConfigError(f'on_error={on_error!r}', expected="'raise' or 'skip'")
        self.folder, self.image_root, self.parts, self.on_error = Path(folder), Path(image_root), parts, on_error
        self.counts: dict[str, Counter[str]] = {}
        self.left_out: Counter[str] = Counter()
        self.changed: Counter[str] = Counter()
        self.notes: dict[str, Any] = {}
        self._open: dict[str, IO[str]] = {}
        self._made: list[Path] = []

    def __enter__(self) -> Output:
        return self

    def write(self, part: str, record: Mapping[str, Any], kind: str = 'records') -> None:
        """Add a record to a part."""
        self._line(f'{part}.jsonl', record)
        self.counts.setdefault(part, Counter())[kind] += 1

    def leave_out(self, reason: str, error: DataError | None = None) -> None:
        """Count a record that is not written, and name its place if there is an error to tell it."""
        self.left_out[reason] += 1
        if error is not None:
            self._line(LEFT_OUT, {'file': error.file, 'line': error.line, 'reason': reason, 'error': error.what})
            if self.left_out[reason] <= _LOGGED:
                logger.warning(f'left out: {error}')

    @contextlib.contextmanager
    def guard(
        self, file: Path, line: int | None = None, record: str = '', reason: str = 'bad records'
    ) -> Iterator[None]:
        """Bad data in here stops the conversion, or leaves one record out.

        Args:
            file, line: where the record stands.
            record: its name, where lines say nothing: ``question 42``.
            reason: what it is counted as.
        """
        try:
            yield
        except DataError as error:
            placed = error if error.file == str(file) else error.at(file, line)
            if record:
                what = f'{record}: {placed.bare}'
                placed = DataError(what, file=file, line=line, expected=error.expected, fix=error.fix)
            if self.on_error == 'raise':
                more = 'or --on-error skip to leave such records out, counted'
                fix = placed.fix if more in placed.fix else '; '.join(filter(None, [placed.fix, more]))
                raise DataError(
                    placed.bare, file=placed.file, line=placed.line, expected=placed.expected, fix=fix
                ) from None
            self.leave_out(reason, placed)

    @property
    def report(self) -> dict[str, Any]:
        """What ``report.json`` holds."""
        return {
            'counts': {name: dict(self.counts.get(name, {})) for name in self.parts if self.counts.get(name)},
            'left_out': dict(self.left_out),
            'changed': dict(self.changed),
            'files': {name: str(self.folder / f'{name}.jsonl') for name in self.parts if self.counts.get(name)},
            'image_root': str(self.image_root),
            **self.notes,
        }

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        for file in self._open.values():
            file.close()
        written = any(self.counts.values())
        if kind is None and written:
            for name in (*(f'{part}.jsonl' for part in self.parts), LEFT_OUT):
                if name in self._open:
                    os.replace(self._temporary(name), self.folder / name)
                else:
                    (self.folder / name).unlink(missing_ok=True)
            write_text(self.folder / 'report.json', json.dumps(self.report, ensure_ascii=False, indent=2) + '\n')
            return
        for name in self._open:
            self._temporary(name).unlink(missing_ok=True)
        for folder in reversed(self._made):
            with contextlib.suppress(OSError):  # somebody else put something into it
                folder.rmdir()
        if kind is None:
            raise DataError(
                f'nothing is left to write: {dict(self.left_out) or "no records"}',
                file=self.image_root,
                fix='see the reasons above; choose other parts, types or filters',
            )

    def _line(self, name: str, record: Mapping[str, Any]) -> None:
        if name not in self._open:
            self._make_folder()
            self._open[name] = self._temporary(name).open('w', encoding='utf-8')
        self._open[name].write(json.dumps(record, ensure_ascii=False) + '\n')

    def _temporary(self, name: str) -> Path:
        return self.folder / f'.{name}.tmp'

    def _make_folder(self) -> None:
        missing = [folder for folder in (self.folder, *self.folder.parents) if not folder.exists()]
        self.folder.mkdir(parents=True, exist_ok=True)
        self._made += reversed(missing)


def chat_record(name: str, images: Sequence[str], turns: Sequence[tuple[str, str]], **extra: Any) -> dict[str, Any]:
    """A record with LLaVA's keys; the pictures stand in front of the first question.

    >>> chat_record('a', ['a.jpg'], [('What?', 'A dish.')], task='name')['conversations'][0]
    {'from': 'human', 'value': '<image>\\nWhat?'}
    """
    conversations = []
    for n, (question, answer) in enumerate(turns):
        pictures = '<image>\n' * len(images) if n == 0 else ''
        conversations += [{'from': 'human', 'value': pictures + question}, {'from': 'gpt', 'value': answer}]
    shown = {'image': images[0] if len(images) == 1 else list(images)} if images else {}
    return {'id': name, **shown, 'conversations': conversations, **extra}


def progress(items: Iterable[Any], what: str, total: int | None = None) -> Iterable[Any]:
    """The items, with a progress bar where standard error is a terminal."""
    from tqdm import tqdm

    return tqdm(items, desc=what, total=total, disable=None, dynamic_ncols=True, mininterval=0.5)


def require(raw: Any, *path: str, kind: type = str) -> Any:
    """``raw[path[0]][path[1]]...``, which must be there and of this kind; a text must not be blank, and is stripped.

    Raises:
        DataError: it is not.

    >>> require({'info': {'name': ' rice '}}, 'info', 'name')
    'rice'
    """
    value = raw
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    if kind is int and isinstance(value, bool):
        value = None
    if not isinstance(value, kind) or (kind is str and not value.strip()):
        name, keys = '.'.join(path), sorted(map(str, raw)) if isinstance(raw, Mapping) else type(raw).__name__
        shown = repr(value) if len(repr(value)) < 80 else f'{repr(value)[:77]}...'
        raise DataError(
            f'`{name}` is {shown}',
            expected={str: 'a text', int: 'a whole number', list: 'a list', dict: 'an object'}[kind],
            fix=f'the keys here are {keys}',
        )
    return value.strip() if kind is str else value
