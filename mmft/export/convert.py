"""From a training checkpoint to a model directory: ``tools/pth_to_hf.py`` as a function."""

from __future__ import annotations

import time
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mmft.checkpoint.build import as_dtype
from mmft.disk import check_zip
from mmft.errors import CheckpointError, ConfigError
from mmft.export import gate
from mmft.export.adapter import AdapterExport
from mmft.export.output import check_out, made_whole, unfinished
from mmft.export.trained_weights import TrainedWeights
from mmft.export.training import Training
from mmft.export.weights import WeightsExport
from mmft.layouts import layout_for
from mmft.models.buffers import tensors_of

__all__ = ['Export', 'convert']


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
    base: str | Path | None = None,
) -> Export:
    """Write a checkpoint as a model directory, or its adapter as a PEFT directory.

    Args:
        cfg: the config of the training: ``model``, ``pretrained`` and, without a base, ``dtype`` are read.
        checkpoint: the ``.pth``; None writes the base itself, in another layout or dtype.
        out: the directory to make. It appears under this name only when it is whole and has passed its check.
        layout: ``hf``, ``official`` or ``native``; see ``mmft/layouts``.
        adapter: a PEFT adapter for the HF-native base, instead of merged weights.
        dtype: of all weights; ``auto`` keeps the base's (without a base: the config's).
        max_shard_size: bytes, or such as ``'5GB'``.
        check: ``full``, ``weights``, ``none`` or ``auto``; see ``mmft/export/gate.py``.
        force: replace an ``out`` that exists.
        log: called with a line for each step.
        base: of an adapter directory that ``pretrained`` names, as for ``mmft.load``.

    Raises:
        CheckpointError, ConfigError: as ``Source.read``; or the check at the end failed.
    """
    started = time.perf_counter()
    out = Path(out)
    if check not in (choices := ('auto', *gate.CHECKS)):
        raise ConfigError(f'check {check!r}', expected=f'one of {list(choices)}')
    if adapter and layout != 'hf':
        raise ConfigError(
            f'an adapter for the layout {layout!r}', expected="'hf': peft sits on transformers' own models"
        )
    source = Training.read(cfg, checkpoint, base)
    if checkpoint is not None and check != 'none':
        _check_sums(Path(checkpoint))
    check_out(out, force, source.inputs)
    target = layout_for(layout, source.model_config, source.base.layout if source.base is not None else None)
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors_of(source.model).items()}
    weights = TrainedWeights(shapes, source.base, source.checkpoint)
    export: WeightsExport | AdapterExport
    if adapter:
        export = AdapterExport(source, weights, target, as_dtype(dtype))
    else:
        target.check(source.contents)
        kind = as_dtype(dtype) or source.main_dtype()
        export = WeightsExport(source.model, weights, target, kind, target.unties, target.adjustments(source.contents))
    seconds = {'plan': time.perf_counter() - started}
    for leftover in unfinished(out):
        log(f'{leftover} is of an export that was cut off: delete it unless one is running')
    if source.encoder is None:
        log(f'{out} will hold no tokenizer, since what is exported has none: copy one into it before use')
    with made_whole(out) as directory:
        log(f'writing {export.nbytes / 1e9:.2f} GB of {export.describe()} to {out}')
        if not adapter:
            target.write_files(directory, replace(source.contents, dtype=export.dtype_name))
        export.write(directory, max_shard_size)
        written = time.perf_counter()
        check = gate.choose_check(check, sum(p.numel() for p in source.model.parameters()))
        log(f'checking what was written ({check})')
        measured = _measure(check, directory, source, export)
        seconds['write'] = written - started - seconds['plan']
        seconds['check'] = time.perf_counter() - written
        files = sorted(file.name for file in directory.iterdir())
        nbytes = sum((directory / name).stat().st_size for name in files)
    return Export(out, files, nbytes, seconds, check, measured)


def _check_sums(checkpoint: Path) -> None:
    """The gate compares what was read with what was written: damage from before would pass it."""
    try:
        check_zip(checkpoint)
    except (ValueError, zipfile.BadZipFile) as error:
        raise CheckpointError(
            f'{checkpoint} is damaged: {error}', expected='a whole file', fix='take an earlier one of the same folder'
        ) from error


def _measure(check: str, directory: Path, source: Training, export: WeightsExport | AdapterExport) -> dict[str, float]:
    if check == 'none':
        return {}
    if isinstance(export, AdapterExport):
        found = {'tensors': export.check_weights(directory)}
        return found | gate.check_adapter(directory, source, export) if check == 'full' else found
    if check == 'full':
        return gate.check_full(directory, source, export)
    return {'tensors': gate.check_weights(directory, export)}
