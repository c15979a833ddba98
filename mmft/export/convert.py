"""From a training checkpoint to a model directory: ``tools/pth_to_hf.py`` as a function."""

from __future__ import annotations

import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mmft.checkpoint.layouts import LAYOUT_NAMES, Layout
from mmft.checkpoint.load import TOKENIZER_FILES, as_dtype, build_meta, check_same
from mmft.engine.checkpoint import fsync_path
from mmft.errors import CheckpointError, ConfigError
from mmft.export import gate, hf, official
from mmft.export.adapter import write_adapter
from mmft.export.merge import TrainedWeights
from mmft.export.same_model import check_trained_model
from mmft.export.sources import Base, TrainingCheckpoint, check_base, trained_names
from mmft.export.weights import WeightsExport
from mmft.models.vlm import VLM
from mmft.registry import ENCODERS

if TYPE_CHECKING:
    from mmft.data.encoder import ChatEncoder

__all__ = ['Export', 'convert']

_FILES = {'hf': hf, 'official': official}


@dataclass
class Export:
    """What was written.

    Attributes:
        files: names in ``path``.
        nbytes: of all files.
        seconds: ``plan``, ``write`` and ``check``.
        check: ``full``, ``weights`` or ``none``, and what it measured in ``measured``.
    """

    path: Path
    files: list[str]
    nbytes: int
    seconds: dict[str, float]
    check: str
    measured: dict[str, float] = field(default_factory=dict)


@dataclass
class Source:
    """All that a conversion reads: the config's model, its base, the checkpoint and the encoder it was trained with."""

    model_config: dict[str, Any]
    base: Base | None
    checkpoint: TrainingCheckpoint | None
    model: VLM
    encoder: ChatEncoder | None
    dtype: torch.dtype | None

    @classmethod
    def read(cls, cfg: Mapping[str, Any], checkpoint: str | Path | None) -> Source:
        """Read and check, before anything is written.

        Raises:
            CheckpointError: another base, another model, no checkpoint of mmft, tensors missing or left over.
            ConfigError: the config contradicts the base.
        """
        cfg = cfg.to_dict() if hasattr(cfg, 'to_dict') else dict(cfg)
        base = Base.read(cfg['pretrained']) if cfg.get('pretrained') else None
        model_config = cfg.get('model') or (base.layout.model_config if base is not None else None)
        if model_config is None:
            raise ConfigError('a config without model and pretrained', fix='pass the config of the training')
        if base is not None:
            check_same(model_config, base.layout.model_config, str(base.path))
        trained = TrainingCheckpoint.read(checkpoint) if checkpoint is not None else None
        if trained is not None:
            check_base(base, trained)
            check_trained_model(model_config, trained.meta, str(trained.path))
            _check_complete(model_config, trained)
        elif base is None:
            raise ConfigError('no checkpoint and no pretrained weights', fix='pass a checkpoint')
        model = build_meta(model_config)
        encoder = _encoder(cfg, model, trained, base)
        if encoder is not None:
            model.image_token_id = encoder.image_token_id
        return cls(model_config, base, trained, model, encoder, as_dtype(cfg.get('dtype')))


def _check_complete(model_config: Mapping[str, Any], checkpoint: TrainingCheckpoint) -> None:
    expected, found = trained_names(build_meta(model_config), checkpoint.meta['tune']), set(checkpoint.state)
    if expected != found:
        missing, extra = sorted(expected - found), sorted(found - expected)
        raise CheckpointError(
            f'{checkpoint.path} does not hold what its own settings train: {len(missing)} tensors missing'
            f'{_such_as(missing)}, {len(extra)} too many{_such_as(extra)}',
            expected=f'the tensors that tune={checkpoint.meta["tune"]} trains in the model of the config',
            fix='take config and checkpoint from the same work_dir',
        )


def _such_as(names: list[str]) -> str:
    return f' ({", ".join(names[:3])}{", ..." if len(names) > 3 else ""})' if names else ''


def _encoder(
    cfg: Mapping[str, Any], model: VLM, checkpoint: TrainingCheckpoint | None, base: Base | None
) -> ChatEncoder | None:
    """The encoder of the training; for a bare base the one that the config describes; None without a tokenizer."""
    if checkpoint is not None:
        if checkpoint.encoder is None:
            return None
        from mmft.data import ChatEncoder

        return ChatEncoder.from_dict(checkpoint.encoder)
    if not cfg.get('encoder'):
        from mmft.checkpoint.load import load_encoder

        return load_encoder(base.path, model.tokens_per_tile, base.layout)
    config = {'tokenizer': str(base.path), **cfg['encoder']}
    if not any((Path(config['tokenizer']) / name).is_file() for name in TOKENIZER_FILES):
        return None
    side = config.get('image_processor', {}).get('tile_size', model.vision.image_size)
    return ENCODERS.build({'tokens_per_tile': model.num_image_tokens(side), **config})


def convert(
    cfg: Mapping[str, Any],
    checkpoint: str | Path | None,
    out: str | Path,
    layout: str = 'hf',
    adapter: bool = False,
    dtype: str = 'auto',
    max_shard_size: int | str = '5GB',
    check: str = 'auto',
    force: bool = False,
    log: Callable[[str], None] = lambda line: None,
) -> Export:
    """Write a checkpoint as a model directory, or its adapter as a PEFT directory.

    Args:
        cfg: the config of the training: ``model``, ``pretrained`` and, without a base, ``dtype`` are read.
        checkpoint: the ``.pth``; None writes the base itself, in another layout or dtype.
        out: the directory to make. It appears under this name only when it is whole and has passed its check.
        layout: ``hf`` or ``official``.
        adapter: a PEFT adapter for the HF-native base, instead of merged weights.
        dtype: of all weights; ``auto`` keeps the base's (without a base: the config's).
        max_shard_size: bytes, or such as ``'5GB'``.
        check: ``full``, ``weights``, ``none`` or ``auto``; see ``mmft/export/gate.py``.
        force: replace an ``out`` that exists.

    Raises:
        CheckpointError, ConfigError: as ``Source.read``; or the check at the end failed.
    """
    started = time.perf_counter()
    out = Path(out)
    _check_choice('layout', layout, tuple(LAYOUT_NAMES))
    _check_choice('check', check, ('auto', *gate.CHECKS))
    source = Source.read(cfg, checkpoint)
    _check_out(out, force, source)
    target: Layout = LAYOUT_NAMES[layout].from_model(source.model_config)
    if source.encoder is not None:
        _FILES[layout].check_encoder(source.encoder)
    names = [name for name, _ in source.model.named_parameters()]
    weights = TrainedWeights(names, source.base, source.checkpoint)
    seconds = {'plan': time.perf_counter() - started}
    with _made_whole(out) as directory:
        if adapter:
            _check_choice('layout of an adapter', layout, ('hf',))
            log(f'writing the adapter to {out}')
            measured = write_adapter(directory, source.model, weights, target, source.encoder, dtype)
            check, checked_from = 'weights', time.perf_counter()
        else:
            export = WeightsExport(
                source.model, weights, target, as_dtype(dtype) or _default(source), untie=layout == 'official'
            )
            kind = str(export.main_dtype()).removeprefix('torch.')
            log(f'writing {sum(map(_size, export.tensors.values())) / 1e9:.2f} GB of {kind} weights to {out}')
            base_path = source.base.path if source.base is not None else None
            _FILES[layout].write_files(directory, source.model, source.encoder, kind, base_path)
            export.write(directory, max_shard_size)
            checked_from = time.perf_counter()
            check = gate.choose_check(check, sum(p.numel() for p in source.model.parameters()))
            log(f'checking what was written ({check})')
            measured = _checked(check, directory, source, export)
        seconds['write'] = checked_from - started - seconds['plan']
        seconds['check'] = time.perf_counter() - checked_from
        files = sorted(file.name for file in directory.iterdir())
        nbytes = sum((directory / name).stat().st_size for name in files)
    return Export(out, files, nbytes, seconds, check, measured)


def _checked(check: str, directory: Path, source: Source, export: WeightsExport) -> dict[str, float]:
    if check == 'full':
        return gate.check_full(directory, source.model_config, source.base, source.checkpoint, source.encoder, export)
    return {'tensors': gate.check_weights(directory, export)} if check == 'weights' else {}


def _default(source: Source) -> torch.dtype | None:
    return source.dtype if source.base is None else None


def _size(kind: tuple[torch.dtype, tuple[int, ...]]) -> int:
    return torch.Size(kind[1]).numel() * kind[0].itemsize


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigError(f'{name} {value!r}', expected=f'one of {list(choices)}')


def _check_out(out: Path, force: bool, source: Source) -> None:
    """Refuse an ``out`` that exists, and, even when forced, one whose loss would be the loss of the input."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not force:
        raise ConfigError(
            f'{out} exists', expected='a new directory', fix='choose another, or pass --force to replace it'
        )
    inputs = [source.base.path] if source.base is not None else []
    inputs += [source.checkpoint.path] if source.checkpoint is not None else []
    for path in (*inputs, Path.cwd()):
        if path.resolve().is_relative_to(out.resolve()):
            raise ConfigError(
                f'--force would delete {out}, in which {path} lies', fix='write to a directory of its own'
            )
    if not out.is_dir():
        raise ConfigError(f'{out} is a file', expected='a directory to replace')


@contextmanager
def _made_whole(out: Path) -> Iterator[Path]:
    """A temporary directory beside ``out`` that takes its name when the block ends, and is removed when it fails."""
    out.parent.mkdir(parents=True, exist_ok=True)
    mark = uuid.uuid4().hex[:8]
    temporary, old = out.parent / f'{out.name}.tmp-{mark}', out.parent / f'{out.name}.old-{mark}'
    temporary.mkdir()
    try:
        yield temporary
        _sync(temporary)
        if out.exists():
            os.rename(out, old)
        os.rename(temporary, out)
        fsync_path(out.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        if old.exists() and not out.exists():
            os.rename(old, out)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _sync(directory: Path) -> None:
    """Flush the small files to disk; the weight files are flushed when they are closed."""
    for file in directory.iterdir():
        if file.suffix != '.safetensors':
            fsync_path(file)
    fsync_path(directory)
