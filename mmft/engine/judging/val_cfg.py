"""Whether a config's validation can work: its settings, its metrics and what they need of the data, ``save_best``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from mmengine.config import Config

from mmft.checks import is_whole, value_problem
from mmft.data.records.annotations import AnnotationFile
from mmft.data.records.formats import answers_of
from mmft.data.records.mixture import read_meta
from mmft.engine.judging.common import is_path
from mmft.engine.plain import plain_value
from mmft.engine.validation import metrics_of
from mmft.errors import ConfigError, DataError
from mmft.words import did_you_mean

__all__ = ['best_problems', 'validation_problems']

SETTINGS = ('max_samples', 'max_new_tokens', 'exchanged_samples', 'metrics')


def validation_problems(cfg: Config) -> Iterator[str]:
    """All that is wrong with ``val_cfg``."""
    settings = plain_value(cfg.get('val_cfg')) or {}
    if not isinstance(settings, Mapping):
        yield f'val_cfg = {settings!r}; expected a dict with some of {SETTINGS}'
        return
    for key in set(settings) - {'type', *SETTINGS}:
        yield f'val_cfg.{key}: unknown{did_you_mean(key, SETTINGS)}; expected some of {SETTINGS}'
    most, length = settings.get('max_samples'), settings.get('max_new_tokens', 1)
    exchanged = settings.get('exchanged_samples', 0)
    fits = most is None or is_whole(most, least=0)
    yield from value_problem('val_cfg.max_samples', most, fits, 'a whole number from 0, or None for all')
    yield from value_problem('val_cfg.max_new_tokens', length, is_whole(length, least=1), 'a whole number from 1')
    fits = is_whole(exchanged, least=0)
    yield from value_problem('val_cfg.exchanged_samples', exchanged, fits, 'a whole number from 0')
    try:
        metrics = metrics_of(settings)
    except ConfigError as error:
        yield from (f'val_cfg.metrics: {problem}' for problem in error.problems)
        return
    needing = [name for name, metric in metrics.items() if metric.needs_answers]
    place = _without_answers(cfg) if needing and most != 0 else ''
    if place:
        yield (
            f'val_cfg.metrics: {", ".join(needing)}, but the record at {place} has no `answers`\n'
            '  expected: a list of the answers that people gave, in each record of the validation set\n'
            '  to do:    add them, or take another metric'
        )


def _without_answers(cfg: Config) -> str:
    """``file:line`` of the first record of the validation set that has no ``answers``; '' where there is none.

    Files and records that cannot be read are passed over: they are reported when the data is.
    """
    loader = plain_value(cfg.get('val_dataloader'))
    dataset = loader.get('dataset') if isinstance(loader, Mapping) else None
    dataset = dataset if isinstance(dataset, Mapping) else {}
    named, meta = dataset.get('ann_file'), dataset.get('meta_file')
    paths = [Path(named)] if is_path(named) else []
    with suppress(DataError):
        paths += [spec.ann_file for spec in read_meta(meta)] if is_path(meta) or isinstance(meta, Mapping) else []
    for path in paths:
        with suppress(DataError):
            file = AnnotationFile(path, on_bad=lambda error: None)
            for number in range(len(file)):
                with suppress(DataError):
                    if not answers_of(file[number]):
                        return f'{path}:{file.line(number)}'
    return ''


def best_problems(cfg: Config, key: str, metric: str | None) -> Iterator[str]:
    """A metric to keep the best checkpoint of that no validation of the run will give.

    Args:
        key: where the hook stands in the config.
        metric: its ``save_best``.
    """
    if metric in (None, 'auto'):
        return
    training, validation = (
        found if isinstance(found := plain_value(cfg.get(name)), Mapping) else {} for name in ('train_cfg', 'val_cfg')
    )
    why = ''
    if not cfg.get('val_dataloader'):
        why = 'there is no val_dataloader'
    elif training.get('val_interval') == 0:
        why = 'train_cfg.val_interval = 0'
    elif metric != 'loss' and validation.get('max_samples') == 0:
        why = 'val_cfg.max_samples = 0: no answer is generated'
    elif metric != 'loss':
        with suppress(ConfigError):  # which validation_problems reports
            names = list(metrics_of(validation))
            why = '' if metric in names else f'val_cfg.metrics = {names}'
    if why:
        yield f"{key}.save_best = {metric!r}, but {why}\n  to do:    validate with it, or set save_best='auto'"
