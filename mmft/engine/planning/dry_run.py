"""``mmft train CONFIG --dry-run``: what a config would train, how long its samples are and what memory a step takes.

Everything is built on the meta device, in seconds and without weights. Data and tokenizer are read where they exist.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from statistics import median
from typing import Any

import torch
from mmengine.config import Config

from mmft.checkpoint.build import build_meta
from mmft.checkpoint.encoder import tokenizer_directory
from mmft.engine.build import plain_pretrained, template_note, tune_on_meta
from mmft.engine.judging.config import Problems, find_problems
from mmft.engine.plain import plain_dict
from mmft.engine.planning import memory
from mmft.engine.planning.measure import TEXT_TOKENS, Plan, image_processor, largest_load, make_plan, picture_tokens
from mmft.engine.strategies import Sharding
from mmft.errors import MMFTError
from mmft.registry import DATASETS, ENCODERS
from mmft.words import count_of, printable

__all__ = ['Plan', 'make_plan', 'plan']

SAMPLES_READ = 200
GPU_SIZES = (12, 16, 24, 40, 48, 80, 141)
GIB = 2**30
MARGIN = 1.2
"""How much larger than its estimate a step may be: what tests/engine/test_memory.py allows it."""


def plan(cfg: Config, gpus: int | None = None, problems: Problems | None = None) -> str:
    """The report of ``--dry-run``.

    Args:
        cfg: the whole config.
        gpus: see ``make_plan``.
        problems: of the config, where they are known already.

    Raises:
        ConfigError: there is nothing to report on: lists all problems of the config.
    """
    problems = find_problems(cfg) if problems is None else problems
    try:
        return _report(cfg, make_plan(cfg, gpus), problems)
    except Exception as error:  # what a wrong value leads to may be anything; the mistake itself is the better message
        if problems.wrong:
            raise problems.error from error
        raise


def _report(cfg: Config, made: Plan, problems: Problems) -> str:
    name = Path(cfg.filename).stem if cfg.filename else 'config'
    blocks = [
        f'{name}: nothing is loaded and nothing is trained',
        _table_of_parts(made),
        '\n'.join(_tokens(cfg, made)),
        '\n'.join(_memory(cfg, made)),
        f'before it can train:\n{problems.error}' if problems.error else '',
    ]
    return printable('\n\n'.join(block for block in blocks if block)) + '\n'


# -- the parts ---------------------------------------------------------------------------------------------------------


def _table_of_parts(made: Plan) -> str:
    rows = [('part', 'class', 'parameters', 'trained', 'how')]
    total = trained = 0
    for part, module in made.model.parts.items():
        weights = made.weights[part]
        base = weights.total - _adapters(module)
        rows.append((part, type(module).__name__, f'{base:,}', f'{weights.trained:,}', _how(made.tune[part])))
        total, trained = total + base, trained + weights.trained
    rows.append(('total', '', f'{total:,}', f'{trained:,}', f'{trained / total:.2%} of the parameters'))
    return _columns(rows, right=(2, 3))


def _adapters(module: Any) -> int:
    return sum(p.numel() for name, p in module.named_parameters() if memory.is_lora_key('.' + name))


def _how(spec: Mapping[str, Any]) -> str:
    shown = {key: spec[key] for key in ('r', 'alpha', 'dropout', 'from_layer') if spec.get(key)}
    kind = f'{spec["type"]} (DoRA)' if spec.get('dora') else spec['type']
    tables = ['and the token table'] if spec.get('embeddings') else []
    return ' '.join([kind, *(f'{key}={value:g}' for key, value in shown.items()), *tables])


def _columns(rows: Sequence[Sequence[str]], right: Sequence[int]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))]
        lines.append('  '.join(cells).rstrip())
    return '\n'.join(lines)


# -- the samples -------------------------------------------------------------------------------------------------------


def _tokens(cfg: Config, made: Plan) -> Iterator[str]:
    processor, per_tile = image_processor(cfg, made.model)
    load = made.load
    if processor is not None:
        ranges = _ranges(picture_tokens(processor, per_tile))
        yield f'tokens: a tile of {processor.tile_size} px is {per_tile}; a picture is {ranges}'
    encoder, notes = _encoder(cfg, per_tile)
    yield _data(cfg, processor, per_tile, encoder)
    yield from _validation_data(cfg, encoder)
    yield from notes
    most, counts = cfg.encoder.get('max_length'), picture_tokens(processor, per_tile)
    if most and max(counts.values()) >= most:
        picture = f'a picture of {count_of(max(counts, key=lambda tiles: (counts[tiles], tiles)), "tile")}'
        yield f'encoder.max_length = {most:,} is too short for {picture}: such samples are errors'
    counted = cfg.optim_wrapper.get('accumulative_counts', 1)
    gpus = made.setting.sharding.gpus
    yield (
        f'a step: batch_size {load.samples} x accumulative_counts {counted} x {count_of(gpus, "GPU")}'
        f' = {count_of(load.samples * counted * gpus, "sample")}'
    )
    yield f'a run: {_run(cfg)}'


def _run(cfg: Config) -> str:
    """How long it is, when it validates, and how it is started."""
    length, epochs = cfg.get('train_cfg') or {}, (cfg.get('train_cfg') or {}).get('max_epochs')
    parts = [count_of(epochs, 'epoch') if epochs else count_of(length.get('max_iters', 0), 'iteration')]
    every = length.get('val_interval')
    if not cfg.get('val_dataloader') or every == 0:
        parts.append('no validation')
    elif every is None:
        parts.append('validation after each epoch' if epochs else 'validation once for each pass over the data')
    else:
        parts.append(f'validation every {count_of(every, "epoch" if epochs else "iteration")}, and at the end')
    if (launcher := cfg.get('launcher') or 'none') != 'none':
        parts.append(f'launcher {launcher}')
    if cfg.get('tf32') is not None:
        parts.append(f'TF32 {"on" if cfg.tf32 else "off"}')
    return ', '.join(parts)


def _ranges(counts: Mapping[int, int]) -> str:
    tiles, tokens = sorted(counts), [counts[n] for n in sorted(counts)]
    shown = ', '.join(f'{n:,}' for n in tokens)
    words = count_of(tiles[0], 'tile') if len(tiles) == 1 else f'{", ".join(map(str, tiles))} tiles'
    return f'{words} = {shown} tokens'


def _data(cfg: Config, processor: Any, per_tile: int, encoder: Any) -> str:
    """What the first pictures and conversations of the training set say."""
    settings = {**plain_dict(cfg.train_dataloader.dataset), 'on_error': 'skip', 'check': 'records'}
    source = settings.get('ann_file') or settings.get('meta_file')
    if isinstance(source, (str, os.PathLike)) and not Path(source).exists():
        return f'data: {source} is not there yet, so lengths are assumed: most tiles, {TEXT_TOKENS} tokens of text'
    try:
        dataset = DATASETS.build({'type': 'ChatDataset', 'encoder': encoder, **settings})
        records = [dataset.record(i) for i in islice(range(len(dataset)), SAMPLES_READ)]
        summary = _summary(len(dataset), source, records, processor, per_tile, encoder)
        return summary + _bad(dataset)
    except (MMFTError, OSError) as error:
        return f'data: {source} cannot be read: {error}'


def _validation_data(cfg: Config, encoder: Any) -> Iterator[str]:
    """What is wrong with the validation set, which is read as the training set is."""
    settings = plain_dict((cfg.get('val_dataloader') or {}).get('dataset') or {})
    source = settings.get('ann_file') or settings.get('meta_file')
    if source is None or (isinstance(source, (str, os.PathLike)) and not Path(source).exists()):
        return
    try:
        settings |= {'encoder': encoder, 'on_error': 'skip', 'check': 'records'}
        dataset = DATASETS.build({'type': 'ChatDataset', **settings})
    except (MMFTError, OSError) as error:
        yield f'validation data: {source} cannot be read: {error}'
        return
    yield f'validation data: {count_of(len(dataset), "sample")} in {source}{_bad(dataset)}'


def _bad(dataset: Any) -> str:
    bad = dataset.problems
    return f'; {count_of(len(bad), "bad record")}, the first: {bad[0]}' if bad else ''


def _summary(size: int, source: Any, records: Sequence[Any], processor: Any, per_tile: int, encoder: Any) -> str:
    from mmft.data.pictures.tilers import image_size

    tiles, lengths = [], []
    for record in records:
        sizes = [image_size(path) for path in record.images] if processor is not None else []
        share = processor.share(len(sizes)) if processor is not None else None
        tiles.append(sum(processor.num_tiles(*wh, share) for wh in sizes))
        tokens = sum(processor.num_tokens(*wh, per_tile, share) for wh in sizes)
        lengths.append(encoder.num_tokens(record.messages, sizes) if encoder else tokens)
    kind = 'token' if encoder else 'image token'
    blind = '' if encoder else '; there is no tokenizer to count text with'
    over = sum(length > (getattr(encoder, 'max_length', None) or length) for length in lengths)
    cut = f'; {over:,} of them are longer than encoder.max_length = {encoder.max_length:,}' if over else ''
    read = f'the first {len(records):,} have' if size > 1 else 'it has'
    return (
        f'data: {count_of(size, "sample")} in {source}; {read} {_spread(tiles, "tile")}, '
        f'{_spread(lengths, kind)}{blind}{cut}'
    )


def _spread(numbers: Sequence[int], noun: str) -> str:
    """
    >>> _spread([1, 1], 'tile'), _spread([5], 'tile'), _spread([1, 3, 7], 'token')
    ('1 tile each', '5 tiles', '1 to 7 (median 3) tokens')
    """
    if min(numbers) == max(numbers):
        return count_of(min(numbers), noun) + (' each' if len(numbers) > 1 else '')
    return f'{min(numbers):,} to {max(numbers):,} (median {median(numbers):,.0f}) {noun}s'


def _encoder(cfg: Config, per_tile: int) -> tuple[Any, list[str]]:
    """The encoder, where its tokenizer is there, and what there is to say of it."""
    config = plain_dict(cfg.encoder)
    config.setdefault('tokenizer', tokenizer_directory(plain_pretrained(cfg)))
    config.setdefault('tokens_per_tile', per_tile)
    if not (config['tokenizer'] and Path(config['tokenizer']).is_dir()):
        return None, []
    try:
        encoder = ENCODERS.build(config)
    except MMFTError as error:
        return None, [f'encoder: {error}']
    return encoder, [text for _, text in [template_note(encoder, config['tokenizer'])] if text]


# -- the memory --------------------------------------------------------------------------------------------------------


def _memory(cfg: Config, made: Plan) -> Iterator[str]:
    load, total = made.load, made.memory.total
    yield (
        f'memory of one GPU at the peak of a step, {count_of(load.samples, "sample")} of {load.length:,} tokens, '
        f'{count_of(load.tiles, "tile")} (an estimate):'
    )
    rows = [(f'  {name}', _gib(size)) for name, size in made.memory.rows().items() if size]
    yield _columns([*rows, ('  total', _gib(total))], right=(1,))
    fits = [size for size in GPU_SIZES if total * MARGIN <= size * GIB]
    yield f'fits a GPU of {fits[0]} GB, with a fifth to spare' if fits else f'fits no GPU of {GPU_SIZES[-1]} GB'
    if torch.cuda.is_available():
        free, whole = torch.cuda.mem_get_info()
        yield f'of the {_gib(whole)} of the GPU here {_gib(free)} are free'
    cures = sorted(_cures(cfg, made), key=lambda cure: cure[1])
    if cures:
        yield 'to make it smaller:'
        yield _columns([(f'  {name}', _gib(size), f'saves {_gib(total - size)}') for name, size in cures], right=(1, 2))


def _cures(cfg: Config, made: Plan) -> Iterator[tuple[str, int]]:
    """What to write into the config or on the command line, and the total it leads to, where it saves a twentieth."""
    for name, other in chain(_lighter_loads(cfg, made), _lighter_settings(made), _lighter_tunes(cfg, made)):
        size = memory.estimate(other.model, other.tune, other.weights, other.load, other.setting).total
        if size < 0.95 * made.memory.total:
            yield name, size


def _lighter_loads(cfg: Config, made: Plan) -> Iterator[tuple[str, Plan]]:
    size, counts = made.load.samples, cfg.optim_wrapper.get('accumulative_counts', 1)
    if size > 1:
        name = f'train_dataloader.batch_size=1 optim_wrapper.accumulative_counts={counts * size}'
        yield name, replace(made, load=largest_load(cfg, made.model, samples=1))
    tiles = getattr(image_processor(cfg, made.model)[0], 'max_tiles', None) or 1
    if tiles > 2:
        yield (
            f'encoder.image_processor.max_tiles={tiles // 2}',
            replace(made, load=largest_load(cfg, made.model, max_tiles=tiles // 2)),
        )


def _lighter_settings(made: Plan) -> Iterator[tuple[str, Plan]]:
    setting, zero = made.setting, made.setting.sharding
    if not setting.checkpointing:
        yield 'gradient_checkpointing=True', replace(made, setting=replace(setting, checkpointing=True))
    if not zero.stage:
        gpus = zero.gpus if zero.gpus > 1 else 8
        for stage in (2,) if 'qlora' in _kinds(made) else (2, 3):
            sharded = replace(setting, sharding=Sharding(stage, gpus=gpus))
            yield f'{gpus} GPUs and --deepspeed zero{stage}', replace(made, setting=sharded)
    elif not zero.offload:
        stage = max(2, zero.stage)
        sharded = replace(setting, sharding=replace(zero, stage=stage, offload=True))
        yield f'--deepspeed zero{stage}_offload', replace(made, setting=sharded)


def _lighter_tunes(cfg: Config, made: Plan) -> Iterator[tuple[str, Plan]]:
    kind, adapted = made.tune['llm']['type'], made
    if kind == 'full':
        spec = {**plain_dict(cfg.get('tune') or {}), 'llm': {'type': 'lora', 'r': 128, 'alpha': 256, 'dropout': 0.05}}
        model = build_meta(plain_dict(cfg.model))
        tune, quantised = tune_on_meta(model, spec)
        adapted = replace(made, model=model, tune=tune, weights=memory.weigh(model, quantised))
        yield 'LoRA: tune.llm of schedules/lora.py', adapted
    if kind in ('full', 'lora'):
        zero = made.setting.sharding
        setting = replace(made.setting, sharding=replace(zero, stage=min(zero.stage, 2)))
        packed = replace(adapted, weights=memory.weigh(adapted.model, {'llm'}), setting=setting)
        name = 'QLoRA: tune.llm of schedules/qlora.py' if kind == 'full' else 'QLoRA: tune.llm.type=qlora'
        yield f'{name} --deepspeed zero2' if zero.stage == 3 else name, packed


def _kinds(made: Plan) -> set[str]:
    return {spec['type'] for spec in made.tune.values()}


def _gib(size: int) -> str:
    return f'{size / GIB:,.1f} GiB'
