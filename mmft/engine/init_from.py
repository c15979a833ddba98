"""``init_from``: weights of another run, or of a model directory, over those of ``pretrained``.

    init_from = 'work_dirs/llava15_7b_align'                # a run's last checkpoint; also .../last, or a .pth
    init_from = 'pretrained/llava-v1.5-mlp2x/mm_projector.bin'   # of LLaVA's first stage; also its folder
    init_from = 'pretrained/tiny-llava-pretrain'            # a run of TinyLLaVA Factory; also its connector/ alone
    init_from = 'work_dirs/llava_internlm2/iter_500.pth'    # of XTuner, also as a folder of DeepSpeed
    init_from = 'output/v0-2024/checkpoint-301'             # an adapter of ms-swift, LLaMA-Factory or TRL
    init_from = dict(path='pretrained/llava-v1.5-7b', parts=['projector'])   # of a model directory, these parts only

All that the source holds (of ``parts``, where they are named) must find its place by name and shape. A projector of
another kind is asked first (``Projector.adopt``): a mixture of experts starts from a dense MLP.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmft.checkpoint.load import open_pretrained
from mmft.checkpoint.parts import PARTS, WEIGHT_SUFFIXES, read_parts
from mmft.checkpoint.xtuner import read_trained
from mmft.engine.optim import trained_parameters
from mmft.engine.run_folder import find_last, read_checkpoint
from mmft.errors import CheckpointError, ConfigError
from mmft.file_names import ADAPTER_CONFIG
from mmft.files.directory import ModelDirectory
from mmft.files.foreign_checkpoints import is_deepspeed
from mmft.files.partial import projector_file
from mmft.files.path_errors import not_one_run
from mmft.files.tensors import TensorSource, fingerprint
from mmft.missing import absent
from mmft.models.buffers import moving_buffers, tensors_of
from mmft.models.lora import add_lora_, is_lora_key, plain_key
from mmft.models.tuning import part_of
from mmft.words import count_of

__all__ = ['InitFrom', 'find_source']

logger = logging.getLogger(__name__)


def find_source(path: str | Path) -> Path:
    """What ``init_from`` names: a weight file, a model directory, or the last checkpoint of a run's folder.

    Raises:
        CheckpointError: there is no such thing.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise CheckpointError(f'init_from = {path!r}', expected='a path, or dict(path=..., parts=[...])')
    path = Path(path)
    if path.is_file():
        return path
    folder = path.parent if path.name == 'last' and not path.exists() else path
    if folder.is_dir():
        if (folder / ADAPTER_CONFIG).is_file() or is_deepspeed(folder):
            return folder
        single = projector_file(folder)
        if (folder / 'config.json').is_file() and single is None:
            return folder
        if (found := single or find_last(folder)) is not None:
            return found
    if folder.is_dir() and (several := not_one_run(folder)) is not None:
        raise CheckpointError(f'init_from: {several.what}', expected=several.expected, fix=several.fix)
    why, fix = ('nothing in it holds weights', 'name another folder') if folder.is_dir() else absent(path)
    raise CheckpointError(
        f'init_from: nothing to start from at {path} (relative to {Path.cwd()}): {why}',
        expected='a .pth of mmft or XTuner, the folder of a run, a model or adapter directory, an mm_projector.bin, or '
        'a connector/ of TinyLLaVA Factory',
        fix=f'run the earlier stage first, where it is one; else {fix}',
    )


class InitFrom:
    """The tensors to start from, put into a model in two passes.

    ``before_tune`` fills the model, so that what is quantised is quantised from them; ``after_tune`` fills in adapters,
    and gives trained weights, which are float32 by then, their unrounded values.

    Args:
        source: as ``init_from`` of a config, or tensors under mmft's names.
        model_config: the config's ``model`` dict.
        base: ``{'path', 'fingerprint'}`` that the model starts from.
        shapes_only: for a model on the meta device: whether everything has a place is decided by names and shapes, and
            no values are read.
    """

    def __init__(
        self,
        source: str | Path | Mapping[str, Any],
        model_config: Mapping[str, Any] | None = None,
        base: Mapping[str, Any] | None = None,
        shapes_only: bool = False,
    ) -> None:
        settings = dict(source) if isinstance(source, Mapping) else {'path': source}
        if unknown := sorted(set(settings) - {'path', 'parts', 'tensors'}):
            raise ConfigError(f'init_from: {unknown}', expected='path, and parts where not all are wanted')
        if not settings.keys() & {'path', 'tensors'}:
            raise ConfigError(f'init_from: {settings}', expected='path, and parts where not all are wanted')
        self.parts = tuple(settings.get('parts') or PARTS)
        if unknown := sorted(set(self.parts) - set(PARTS)):
            raise ConfigError(f'init_from: no part is named {unknown}', expected=f'some of {list(PARTS)}')
        self.model_config, self.base, self.shapes_only = model_config, base, shapes_only
        self.tensors: Mapping[str, Tensor] | None = settings.get('tensors')
        self.path = 'the checkpoint' if self.tensors is not None else find_source(settings['path'])
        self.exact: dict[str, Tensor] = {}
        self.filled: set[str] = set()
        self.left: set[str] = set()  # parts that the source holds and that `parts` does not name

    def before_tune(self, model: nn.Module) -> None:
        """Give the model's parameters and buffers their values, in the dtype they have.

        Raises:
            CheckpointError: lists every tensor that has no place, or a place of another shape.
        """
        own = {plain_key(name): tensor for name, tensor in tensors_of(model, remove_duplicate=False).items()}
        problems = {}
        for name, value in self._adopted(model):
            if is_lora_key(name):
                self.exact[name] = value
            elif problem := _misfit(value, own.get(name)):
                problems[name] = problem
            else:
                if value.dtype != own[name].dtype:
                    self.exact[name] = value
                with torch.no_grad():
                    own[name].copy_(value)
                self.filled.add(name)
        if not problems and not self.filled and not self.exact:
            raise CheckpointError(
                f'init_from: {self.path} holds nothing of {", ".join(self.parts)}',
                expected=f'some of the parts that it holds: {sorted(self.left)}' if self.left else 'weights of a model',
                fix='correct `parts`, or the path',
            )
        self._raise(problems)

    def after_tune(self, model: nn.Module) -> None:
        """Give trained parameters the values as they are stored, and adapters theirs."""
        own = {**trained_parameters(model), **moving_buffers(model)}
        problems = {}
        for name, value in self.exact.items():
            if name not in own:
                if is_lora_key(name):
                    problems[name] = 'an adapter, which `tune` puts nowhere'
            elif problem := _misfit(value, own[name]):
                problems[name] = problem
            else:
                with torch.no_grad():
                    own[name].copy_(value)
                self.filled.add(name)
        self.exact = {}
        self._raise(problems)
        if self.shapes_only:
            return
        counts = {part: sum(part_of(name) == part for name in self.filled) for part in PARTS}
        taken = ', '.join(f'{count_of(count, "tensor")} of {part}' for part, count in counts.items() if count)
        logger.info(f'started from {self.path}: {taken or count_of(len(self.filled), "tensor")}')

    def _raise(self, problems: Mapping[str, str]) -> None:
        if problems:
            lines = [f'{name}: {problem}' for name, problem in problems.items()]
            shown = '\n  '.join(lines[:20]) + (f'\n  ... and {len(lines) - 20} more' if lines[20:] else '')
            raise CheckpointError(
                f'init_from: {self.path} does not fit the model:\n  {shown}',
                expected='tensors of the same names and shapes',
                fix='; or '.join(self._advice(problems)),
            )

    def _advice(self, problems: Iterable[str]) -> Iterator[str]:
        """What to do about tensors of these names."""
        if plain := sorted({name.split('.')[0] for name in problems if not is_lora_key(name)}):
            keys = ' and '.join(f'model.{key}' for key in plain)
            yield f'make {keys} what the weights were trained with'
        if any(map(is_lora_key, problems)):
            yield 'adapt the same parts in `tune` as the run that trained the adapters'
            yield 'export that run, and name the export as `pretrained`'
        fitting = {part_of(name) for name in self.filled} - {part_of(name) for name in problems}
        if fitting and self.tensors is None:
            yield f'take the parts that fit: init_from=dict(path={str(self.path)!r}, parts={sorted(fitting)})'

    def _adopted(self, model: nn.Module) -> Iterator[tuple[str, Tensor]]:
        """Name and value of all that is taken; the projector's as this model's projector understands them."""
        projector: dict[str, Tensor] = {}
        for name, value in self._read(model):
            if part_of(name) not in self.parts:
                self.left.add(part_of(name))
                continue
            if name.startswith('projector.') and not is_lora_key(name):
                projector[name.removeprefix('projector.')] = value
            else:
                yield name, value
        if projector:
            adopt = getattr(model.projector, 'adopt', dict)
            yield from ((f'projector.{name}', value) for name, value in adopt(projector).items())

    def _read(self, model: nn.Module) -> Iterator[tuple[str, Tensor]]:
        if self.tensors is not None:
            yield from self.tensors.items()
        elif (trained := read_trained(Path(self.path), self.model_config or {})) is not None:
            yield from trained.tensors.items()
            yield from self._merged(trained.adapters, model)
        elif Path(self.path).is_dir():
            opened = open_pretrained(self.path, base=self._adapters_base())
            changed = self._changed()
            for step in opened.layout.to_ours(opened.tensors):
                if part_of(step.outputs[0]) not in self.parts:
                    self.left.add(part_of(step.outputs[0]))
                elif changed is None or changed & set(step.inputs):
                    yield from step(self._reader(opened.tensors)).items()
        elif Path(self.path).suffix in WEIGHT_SUFFIXES and not _is_checkpoint(self.path):
            layout, tensors = read_parts({'projector': self.path}, self.model_config or {})
            for step in layout.to_ours(tensors):
                yield from step(self._reader(tensors)).items()
        else:
            content = read_checkpoint(self.path, mmap=self.shapes_only)
            if not self.shapes_only:
                self._check_base(content)
            yield from content['state_dict'].items()

    def _reader(self, tensors: TensorSource) -> Callable[[str], Tensor]:
        return tensors.without_values if self.shapes_only else tensors.__getitem__

    def _merged(self, adapters: Mapping[str, Any], model: nn.Module) -> Iterator[tuple[str, Tensor]]:
        """Weights of the model with another program's LoRA added: what this run then adapts is their sum."""
        own = dict(model.named_parameters(remove_duplicate=False))
        for module, (a, b, scale) in adapters.items():
            weight = own.get(f'{module}.weight')
            if weight is None or tuple(weight.shape) != (len(b), a.shape[-1]):
                yield f'{module}.weight', torch.empty(len(b), a.shape[-1], device='meta')  # is reported with the rest
            elif part_of(module) in self.parts:
                a, b = (factor.to(weight.device).float() for factor in (a, b))
                yield f'{module}.weight', add_lora_(weight.detach().float().clone(), a, b, scale)

    def _adapters_base(self) -> str | None:
        """Of an adapter's directory: what this run starts from, where the base that it names is not found."""
        directory, own = ModelDirectory(self.path), (self.base or {}).get('path')
        with suppress(CheckpointError):
            return None if directory.base_directory or not isinstance(own, str) else own
        return own if isinstance(own, str) else None

    def _changed(self) -> frozenset[str] | None:
        """Of an adapter over the very base of this run: what the adapter changes. None: all tensors are taken."""
        directory = ModelDirectory(self.path, base=self._adapters_base())
        below = directory.base_directory if directory.is_adapter else None
        if below is None or fingerprint(below.tensors) != (self.base or {}).get('fingerprint'):
            return None
        return directory.tensors.changed

    def _check_base(self, content: Mapping[str, Any]) -> None:
        before, now = ((base or {}).get('fingerprint') for base in (content['meta'].get('base'), self.base))
        if before != now:
            logger.warning(f'{self.path} was trained on another base than this run starts from')


def _misfit(value: Tensor, place: Tensor | None) -> str:
    """Why a tensor cannot take its place in the model; nothing where it can."""
    if place is None:
        return 'not in the model'
    if tuple(value.shape) != tuple(place.shape):
        return f'{tuple(value.shape)} there, {tuple(place.shape)} in the model'
    if place.is_floating_point() and not value.is_floating_point():
        return f'whole numbers ({value.dtype}) there'
    return ''


def _is_checkpoint(path: Path) -> bool:
    """Whether a ``.pth`` is one of our training's."""
    if path.suffix != '.pth':
        return False
    try:
        content = torch.load(path, map_location='meta', weights_only=True)
    except Exception:  # whatever damage makes of a file: reading it as a checkpoint tells what is wrong
        return True
    return isinstance(content, dict) and 'state_dict' in content and 'meta' in content
