"""One record, checked: everything that is wrong with it, and what it would cost to train on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from mmft.data.pictures.loading import is_spoilt_without_alpha
from mmft.data.pictures.tilers import image_size, load_image
from mmft.data.pictures.transparency import WHITE
from mmft.data.records.formats import Record
from mmft.data.records.subset import Subset
from mmft.errors import DataError
from mmft.structures import IGNORE_INDEX, Sample
from mmft.words import count_of

__all__ = ['KINDS', 'Problem', 'RecordCheck', 'check_record']

KINDS = {
    'file': 'an annotation file or image root that cannot be opened',
    'record': 'JSON, keys, roles, texts, placeholders, paths',
    'unread-key': 'a key, or a mark in the text, that is neither read nor known to be harmless',
    'picture': 'a picture that is missing, broken, too small or too large',
    'transparent': 'pictures whose hidden colours would show without alpha: a note, or a problem with background=None',
    'length': 'more tokens than max_length',
    'no-end': 'an answer that is trained without the end token: the model would never stop',
    'early-end': 'an answer with the end token inside: the model would stop in the middle',
    'nothing-trained': 'a sample without a single trained token',
    'unknown-token': 'text that the tokenizer cannot write',
    'duplicate-id': 'an id that several records of a file have',
    'duplicate-record': 'records with the same pictures and texts',
    'shared-picture': 'pictures that are in the training and in the validation set',
}
"""What can be wrong."""

_UNREAD = (
    'keys that are read, and keys that say nothing about what is learnt (docs/data.md)',
    'rename it to what it means, or write it into the turns; where it says nothing about what is learnt: '
    'ignore_keys=[...] of the dataset, or --allow unread-key',
)
_ANSWER = 60  # characters of an answer that tell it from others


@dataclass(slots=True)
class Problem:
    """What is wrong with a record, as an error would say it."""

    kind: str
    what: str
    expected: str = ''
    fix: str = ''

    @classmethod
    def of(cls, kind: str, error: DataError) -> Problem:
        return cls(kind, error.bare, error.expected, error.fix)


@dataclass(slots=True)
class RecordCheck:
    """What is known of a record.

    Attributes:
        tokens: as the encoder counts them, before any shortening; -1 where that is not known.
        trained: trained tokens; -1 likewise.
        tiles: of all its pictures; -1 likewise.
        pictures: full paths.
        answer: the beginning of the last answer.
        key: the record's ``id``, where it has one.
        digest: of pictures and texts.
        problems: what is wrong with it.
        notes: what is worth knowing, and is not wrong.
    """

    tokens: int = -1
    trained: int = -1
    tiles: int = -1
    pictures: list[str] = field(default_factory=list)
    answer: str = ''
    key: str | None = None
    digest: bytes = b''
    problems: list[Problem] = field(default_factory=list)
    notes: list[Problem] = field(default_factory=list)


def check_record(subset: Subset, i: int, decode: bool = True) -> RecordCheck:
    """Check record ``i``.

    Args:
        decode: decode the pictures and check the labels; else picture headers and token counts only.
    """
    found = RecordCheck()
    try:
        record = subset.record(i)
    except DataError as error:
        found.problems.append(Problem.of('record', error))
        return found
    found.pictures, found.answer = record.images, ' '.join(record.answer.split())[:_ANSWER]
    key = record.raw.get('id')
    found.key = str(key) if isinstance(key, (str, int, float)) else None
    found.problems += [Problem('unread-key', f'{key} is not read', *_UNREAD) for key in record.unread]
    text = json.dumps([record.images, record.messages], ensure_ascii=False, sort_keys=True)
    found.digest = hashlib.blake2b(text.encode(), digest_size=12).digest()
    sizes = list(_sizes(subset, record, found))
    if len(sizes) == len(record.images) and subset.encoder is not None:
        _encode(subset, record, sizes, decode, found)
    elif decode:
        _decode(subset, record.images, found)
    if decode and not any(problem.kind == 'picture' for problem in found.problems):
        _transparent(subset, record.images, found)
    return found


def _transparent(subset: Subset, paths: list[str], found: RecordCheck) -> None:
    """Pictures that are another one without their alpha."""
    colour = WHITE if subset.encoder is None else subset.encoder.background
    for path in paths:
        if not is_spoilt_without_alpha(path, subset.max_pixels):
            continue
        if colour is None:
            expected, fix = 'encoder.background, a colour', "set encoder.background='white', or --allow transparent"
            what = f'{path}: its alpha is dropped, and the colours under it show'
            found.problems.append(Problem('transparent', what, expected, fix))
        else:
            what = (
                f'{path}: a transparent picture, seen on {"#{:02x}{:02x}{:02x}".format(*colour)} (encoder.background)'
            )
            found.notes.append(Problem('transparent', what))


def _sizes(subset: Subset, record: Record, found: RecordCheck) -> Iterator[tuple[int, int]]:
    """Of the pictures whose headers are good; each bad one is a problem of its own."""
    for path in record.images:
        try:
            size = image_size(path, subset.max_pixels)
            subset.check_size(path, size)
        except DataError as error:
            found.problems.append(Problem.of('picture', _named(error)))
        else:
            yield size


def _named(error: DataError) -> DataError:
    """With the picture's path in the message."""
    if error.file is None:
        return error
    return DataError(f'{error.file}: {error.bare}', expected=error.expected, fix=error.fix)


def _decode(subset: Subset, paths: list[str], found: RecordCheck) -> None:
    known = {problem.what.partition(': ')[0] for problem in found.problems}
    for path in paths:
        if path not in known:
            try:
                load_image(path, subset.max_pixels)
            except DataError as error:
                found.problems.append(Problem.of('picture', _named(error)))


def _encode(subset: Subset, record: Record, sizes: list[tuple[int, int]], decode: bool, found: RecordCheck) -> None:
    encoder = subset.encoder
    try:
        found.tokens = encoder.num_tokens(record.messages, sizes)
    except DataError as error:
        found.problems.append(Problem.of('record', error))
        if decode:
            _decode(subset, record.images, found)
        return
    found.tiles = _tiles(encoder, sizes)
    limit = encoder.max_length
    over = limit is not None and found.tokens > limit
    if over and encoder.too_long == 'error':
        fix = "raise max_length, lower image_processor.max_tiles, split the conversation, or set too_long='truncate'"
        found.problems.append(Problem('length', f'{found.tokens} tokens', f'at most max_length={limit}', fix))
    if not decode:
        return
    if over and encoder.too_long == 'error':
        _decode(subset, record.images, found)
        return
    try:
        sample = encoder(record.messages, record.images, max_pixels=subset.max_pixels)
    except DataError as error:
        before = len(found.problems)
        _decode(subset, record.images, found)
        if len(found.problems) == before:
            found.problems.append(Problem.of('length' if over else 'record', error))
        return
    found.tiles = sum(sample.num_tiles)
    found.problems += _labels(
        encoder, sample, over, sum(m['role'] == 'assistant' and m.get('loss', True) for m in record.messages)
    )
    found.trained = int((sample.labels != IGNORE_INDEX).sum())


def _tiles(encoder: Any, sizes: list[tuple[int, int]]) -> int:
    processor = encoder.image_processor
    return sum(processor.num_tiles(*size, processor.share(len(sizes))) for size in sizes)


def _labels(encoder: Any, sample: Sample, cut: bool, answers: int) -> Iterator[Problem]:
    """What the trained tokens would teach wrong."""
    runs = list(_runs(sample))
    if not runs:
        yield Problem('nothing-trained', 'not one token is trained', 'an answer', 'correct or remove the record')
    end, stops = encoder.template.end, encoder.stop_token_ids
    endless = [run for run in runs if run[-1] not in stops and not _spells(encoder, run, end)]
    if endless and cut:
        yield Problem(
            'no-end',
            f'the last answer is cut off at max_length={encoder.max_length} and never ends',
            'answers that fit',
            'raise max_length, or split the conversation',
        )
    elif endless:
        yield Problem(
            'no-end',
            f'{len(endless)} of {count_of(len(runs), "answer")} trained without {end or "an end token"!r}',
            'an end token after each answer',
            f'the template {encoder.template.name!r} does not fit this model or tokenizer: choose another',
        )
    if end.strip() and len(runs) == answers and any(stops[0] in run[:-1] for run in runs):
        yield Problem(
            'early-end',
            f'an answer holds the text {end.strip()!r}, which is the end token',
            'it at the end only, where the template puts it',
            'take it out of the answer',
        )
    unknown = encoder.tokenizer.unk_token_id
    if unknown is not None and (count := int((sample.input_ids == unknown).sum())):
        yield Problem(
            'unknown-token',
            f'{count_of(count, "token")} encoded as {encoder.tokenizer.unk_token!r}',
            'text in the characters that the tokenizer knows',
            'correct the text, or choose a model whose tokenizer has them',
        )


def _runs(sample: Sample) -> Iterator[list[int]]:
    """The stretches of trained tokens."""
    ids, trained = sample.input_ids.tolist(), (sample.labels != IGNORE_INDEX).tolist()
    run: list[int] = []
    for index, flag in zip(ids, trained, strict=True):
        if flag:
            run.append(index)
        elif run:
            yield run
            run = []
    if run:
        yield run


def _spells(encoder: Any, run: list[int], end: str) -> bool:
    """Whether the run's text ends so, where the end is no token of its own (a newline after a caption)."""
    return bool(end) and encoder.tokenizer.decode(run[-8:], skip_special_tokens=False).endswith(end)
