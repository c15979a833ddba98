"""``ChatDataset``: annotation files and pictures -> encoded samples, with nothing bad passing silently.

Everything that can be known without decoding a picture is checked when the dataset is made: JSON, roles, placeholders,
paths, picture headers, token lengths. With ``on_error='raise'`` the first problem stops the run before it costs
anything; with ``'skip'`` bad records leave the index, are logged with file and line, and are counted. A picture that
turns out to be broken only while it is decoded gives no sample (the collator drops it); it is never replaced by
another.

Such a picture is found, logged and counted in the process that loads it. Forked workers, mmengine's default, have the
log handlers of the process that made them; spawned ones have none, so that their lines go to standard error alone. The
count lies in shared memory and is that of all workers of one rank, and of the ranks mmengine shows rank 0's warnings.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from mmft.checks import count_in_environment
from mmft.data.pictures.augment import jpeg_tiles
from mmft.data.pictures.tilers import MAX_PIXELS
from mmft.data.records.formats import Record
from mmft.data.records.mixture import SetSpec, mix, read_meta
from mmft.data.records.options import check_options
from mmft.data.records.subset import KINDS, Scan, Subset
from mmft.errors import ConfigError, DataError
from mmft.machine import cpu_count
from mmft.registry import DATASETS
from mmft.structures import Sample
from mmft.words import count_of

__all__ = ['SKIP_ADVICE', 'ChatDataset']

logger = logging.getLogger('mmft')

_PARALLEL_FROM = 4096  # records; below, starting processes takes longer than the work
SKIP_ADVICE = "on_error='skip' to leave such samples out, counted"
_NAMED_IN_ERROR = 5
_NAMED_IN_LOG = 8


@DATASETS.register_module()
class ChatDataset(Dataset):
    """Conversations with pictures, map-style; ``dataset[i]`` depends on ``i`` and the arguments only.

    Args:
        ann_file: a ``.jsonl`` or ``.json`` file; or else
        meta_file: InternVL's meta file, or the dict it would hold, for several sets (:mod:`mmft.data.records.mixture`).
        image_root: the folder that holds the pictures; default: the folder of the annotation file.
        encoder: the ``ChatEncoder``. Without one only :meth:`record` and its like work.
        format: ``auto`` or a name from :func:`mmft.data.records.formats.format_names`.
        on_error: ``raise``, or ``skip`` to leave bad samples out and count them in :attr:`skipped`.
        check: what is checked when the dataset is made: ``pictures`` (records, picture headers and, with an encoder,
            lengths) or ``records`` (JSON, roles, placeholders, paths), which is faster on millions of pictures.
        repeat_time: how often the samples are seen in an epoch; 2.5 means twice, and a seeded half once more.
        max_samples: at most this many, a seeded choice in file order.
        seed: of the choices that ``repeat_time``, weights and ``max_samples`` make.
        follow_links: whether symbolic links may lead out of the image root.
        min_side: smallest width and height of a picture, px.
        max_pixels: largest width x height of a picture; a larger one costs memory (3 bytes each) in every data worker.
        ignore_keys: keys of the records that say nothing about what is learnt, so that they are neither refused nor
            reported (:mod:`mmft.data.records.record_keys`).
        data_augment: whether tiles are re-encoded as JPEG of a random quality, which ``seed`` and ``i`` decide; None,
            the default of ``train_dataloader``: as the meta file says of each set.

    Raises:
        ConfigError: contradictory arguments.
        DataError: bad data with ``on_error='raise'``; with ``'skip'``, when nothing good is left.
    """

    def __init__(
        self,
        ann_file: str | Path | None = None,
        meta_file: str | Path | Mapping[str, Any] | None = None,
        image_root: str | Path | None = None,
        encoder: Any = None,
        format: str = 'auto',
        on_error: str = 'raise',
        check: str = 'pictures',
        repeat_time: float = 1.0,
        max_samples: int | None = None,
        seed: int = 0,
        follow_links: bool = False,
        min_side: int = 2,
        max_pixels: int = MAX_PIXELS,
        ignore_keys: Sequence[str] = (),
        data_augment: bool | None = False,
    ) -> None:
        check_options(
            'ChatDataset',
            ann_file=ann_file,
            meta_file=meta_file,
            image_root=image_root,
            format=format,
            on_error=on_error,
            check=check,
            repeat_time=repeat_time,
            max_samples=max_samples,
            seed=seed,
            follow_links=follow_links,
            min_side=min_side,
            max_pixels=max_pixels,
            ignore_keys=ignore_keys,
            data_augment=data_augment,
        )
        self.on_error, self.seed, self._check, self._encoder = on_error, seed, check, encoder
        self.data_augment = data_augment
        if meta_file is not None:
            specs = read_meta(meta_file, image_root, format)
        else:
            specs = [SetSpec('', Path(ann_file), None if image_root is None else Path(image_root), format=format)]
        self.problems: list[DataError] = []
        self._kinds: Counter[str] = Counter()
        note = None if on_error == 'raise' else lambda error: self._note('record', error)
        self._subsets = [Subset(spec, encoder, follow_links, note, min_side, max_pixels, ignore_keys) for spec in specs]
        self._lengths = [np.full(len(s.file), -1, np.int64) for s in self._subsets]
        self._images = [np.zeros(len(s.file), np.int32) for s in self._subsets]
        good = self._scan_all()
        if check == 'records' and getattr(encoder, 'max_length', None) and encoder.too_long == 'truncate':
            logger.info("check='records' looks at no lengths: records that max_length cuts off are not counted")
        self._index = self._choose(good, repeat_time, max_samples)
        # One byte per record in shared memory: a worker process can tell the main one which pictures failed it.
        self._broken = [torch.zeros(len(s.file) if on_error == 'skip' else 0, dtype=torch.uint8) for s in self._subsets]
        for flags in self._broken:
            flags.share_memory_()

    @property
    def encoder(self) -> Any:
        """The encoder; setting it forgets the lengths that another one gave."""
        return self._encoder

    @encoder.setter
    def encoder(self, encoder: Any) -> None:
        self._encoder = encoder
        for subset, lengths in zip(self._subsets, self._lengths, strict=True):
            subset.set_encoder(encoder)
            lengths.fill(-1)

    @property
    def skipped(self) -> dict[str, int]:
        """How many records were left out, by kind (``KINDS``), by this process and its data workers."""
        counts = self._kinds.copy()
        for flags in self._broken:
            counts.update({kind: int((flags == n).sum()) for n, kind in enumerate(KINDS, 1)})
        return {kind: count for kind, count in counts.items() if count}

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each sample, from picture headers; (len(self),) int64.

        Raises:
            ConfigError: there is no encoder.
            DataError: a picture whose header was not checked before is bad.
        """
        if self.encoder is None:
            raise ConfigError('lengths need an encoder', fix='ChatDataset(..., encoder=encoder)')
        rows = np.unique(self._index, axis=0)
        todo = [(int(s), int(i)) for s, i in rows if self._lengths[s][i] < 0]
        for (s, i), scan in zip(todo, self._scan_many(todo, check_pictures=True), strict=True):
            if scan.problem is not None and self.on_error == 'raise':
                raise scan.problem
            # A sample that is bound to fail when it is loaded counts as the shortest.
            self._lengths[s][i] = max(scan.length, 1)
        return np.array([self._lengths[s][i] for s, i in self._index], dtype=np.int64)

    @cached_property
    def fingerprint(self) -> dict[str, str]:
        """Digests of what the samples are: of the bytes of the annotation files, and of which records were chosen."""
        chosen = hashlib.blake2b(np.ascontiguousarray(self._index).tobytes(), digest_size=8)
        content = hashlib.blake2b(digest_size=8)
        for subset in self._subsets:
            content.update(subset.file.digest())
        return {'annotations': content.hexdigest(), 'chosen_records': chosen.hexdigest()}

    @property
    def num_images(self) -> np.ndarray:
        """Pictures of each sample; (len(self),) int32; 0: text only."""
        return np.array([self._images[s][i] for s, i in self._index], dtype=np.int32)

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, i: int) -> Sample | None:
        """Encode sample ``i``; None for a picture that proves broken now, with ``on_error='skip'``.

        Raises:
            ConfigError: there is no encoder.
            DataError: with ``on_error='raise'``; names the annotation file and line.
        """
        s, n = self._at(i)
        subset = self._subsets[s]
        if subset.encoder is None:
            raise ConfigError('a dataset without an encoder has no samples', fix='ChatDataset(..., encoder=encoder)')
        try:
            sample = subset.encode(n)
        except DataError as error:
            if self.on_error == 'raise':
                raise _first_of([error]) from error
            if not self._broken[s][n]:
                # The cause is a picture's own error, or the encoder's word that a text cannot be cut short enough.
                cause = error.__cause__
                self._broken[s][n] = 1 + KINDS.index('length' if getattr(cause, 'file', '') is None else 'picture')
                _log(error, sum(self.skipped.values()))
            return None
        sample.meta['index'] = int(i) % len(self)
        augments = subset.spec.data_augment if self.data_augment is None else self.data_augment
        if augments and sample.pixel_values is not None:
            rng = np.random.default_rng([self.seed, sample.meta['index']])
            sample.pixel_values = jpeg_tiles(sample.pixel_values, rng)
        return sample

    def record(self, i: int) -> Record:
        """The messages, full picture paths and raw JSON of sample ``i``, without opening a picture."""
        s, n = self._at(i)
        record = self._subsets[s].record(n)
        record.meta['index'] = int(i) % len(self)
        return record

    def ground_truth(self, i: int) -> str:
        """The last answer of sample ``i``."""
        return self.record(i).answer

    def _at(self, i: int) -> tuple[int, int]:
        if not -len(self) <= i < len(self):
            raise IndexError(f'sample {i} of {len(self)}')
        s, n = self._index[i]
        return int(s), int(n)

    def _note(self, kind: str, problem: DataError) -> None:
        self.problems.append(problem)
        self._kinds[kind] += 1
        _log(problem, len(self.problems))

    def _scan_many(self, rows: list[tuple[int, int]], check_pictures: bool) -> list[Scan]:
        scans = self._scanned(_Scans(self._subsets, rows, check_pictures))
        cut: dict[int, list[int]] = defaultdict(list)
        for (s, _), scan in zip(rows, scans, strict=True):
            if scan.lost_ends >= 0:
                cut[s].append(scan.lost_ends)
        for s, lost_ends in cut.items():
            self._subsets[s].log_cut(lost_ends)
        return scans

    def _scanned(self, scans: _Scans) -> list[Scan]:
        rows = scans.rows
        workers = min(16, _cores()) if len(rows) >= _PARALLEL_FROM else 0
        if workers < 2:
            return [scans[n] for n in range(len(rows))]
        logger.info('checking %d records with %d processes', len(rows), workers)
        # A generator of its own: a DataLoader would otherwise draw from the global one.
        loader = DataLoader(
            scans, batch_size=256, num_workers=workers, collate_fn=list, generator=torch.Generator().manual_seed(0)
        )
        return [scan for batch in loader for scan in batch]

    def _scan_all(self) -> list[np.ndarray]:
        """Check every record; returns the good ones of each set."""
        good = []
        for s, subset in enumerate(self._subsets):
            scans = self._scan_many([(s, i) for i in range(len(subset.file))], self._check == 'pictures')
            bad = [scan for scan in scans if scan.problem is not None]
            if bad and self.on_error == 'raise':
                raise _first_of([scan.problem for scan in bad])
            for scan in bad:
                self._note(scan.kind, scan.problem)
            self._lengths[s][:] = [scan.length for scan in scans]
            self._images[s][:] = [scan.images for scan in scans]
            _log_unread(subset, Counter(key for scan in scans for key in scan.unread))
            good.append(np.array([i for i, scan in enumerate(scans) if scan.problem is None], dtype=np.int64))
            if not len(good[-1]):
                raise DataError(
                    f'no good record among {len(scans):,}; the first problem: {bad[0].problem}',
                    file=subset.file.path,
                    fix='correct the file: leaving everything out leaves nothing to train on',
                )
        if self.problems:
            files = ', '.join(str(subset.file.path) for subset in self._subsets)
            kept = sum(map(len, good))
            gone = count_of(len(self.problems), 'record')
            logger.warning(f'{gone} left out in all, {kept:,} kept of {files}: {dict(self._kinds)}')
        return good

    def _choose(self, good: list[np.ndarray], repeat_time: float, max_samples: int | None) -> np.ndarray:
        specs = [s.spec for s in self._subsets]
        weights = [s.weight for s in specs] if specs[0].weight is not None else None
        names = [s.label for s in specs]
        rows = mix([len(g) for g in good], [s.repeat_time for s in specs], weights, self.seed, names)
        rows[:, 1] = [good[s][n] for s, n in rows]
        if repeat_time != 1:
            rows = rows[mix([len(rows)], [repeat_time], seed=self.seed, names=[' and '.join(names)])[:, 1]]
        if max_samples is not None and max_samples < len(rows):
            rows = rows[np.sort(np.random.default_rng([self.seed, len(rows)]).permutation(len(rows))[:max_samples])]
        return rows


class _Scans(Dataset):
    """The scans of some (set, record) rows, for a DataLoader to share among its workers."""

    def __init__(self, subsets: list[Subset], rows: list[tuple[int, int]], check_pictures: bool) -> None:
        self.subsets, self.rows, self.check_pictures = subsets, rows, check_pictures

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, n: int) -> Scan:
        s, i = self.rows[n]
        return self.subsets[s].scan(i, self.check_pictures)


def _cores() -> int:
    """CPU cores for this process, where several ranks share a machine."""
    return cpu_count() // count_in_environment('LOCAL_WORLD_SIZE', 1, least=1)


def _log(problem: DataError, count: int) -> None:
    # Finished text, no template with arguments: of each template mmengine's handlers show one warning and no more.
    logger.warning(f'left out {count} so far: {problem}')


def _log_unread(subset: Subset, counts: Counter[str]) -> None:
    """What records of a file hold and nothing reads."""
    for key, count in counts.most_common(_NAMED_IN_LOG):
        logger.warning(
            f'{count_of(count, "record")} of {subset.file.path}: {key} is not read, and its meaning is lost; '
            'if it has none, say so with ignore_keys=[...] of the dataset'
        )
    if (more := len(counts) - _NAMED_IN_LOG) > 0:
        logger.warning(f'{count_of(more, "other key")} of {subset.file.path} are not read: mmft check-data names all')


def _first_of(problems: list[DataError]) -> DataError:
    """The first problem; the places of the others stand in its advice."""
    first, others = problems[0], problems[1:]
    fix = f'{first.fix}; or {SKIP_ADVICE}' if first.fix else f'correct the record, or {SKIP_ADVICE}'
    if others:
        places = ', '.join(f'{p.file}:{p.line}' if p.line else f'{p.file}' for p in others[:_NAMED_IN_ERROR])
        fix += f'\n            {len(others)} more bad: {places}{", ..." if len(others) > _NAMED_IN_ERROR else ""}'
    return DataError(first.bare, file=first.file, line=first.line, expected=first.expected, fix=fix)
