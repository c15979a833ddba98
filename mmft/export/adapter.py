"""A PEFT adapter directory: what was trained, for ``peft.PeftModel.from_pretrained`` over the HF-native base.

LoRA layers become LoRA layers; where the layout splits a packed layer (InternViT's qkv), so are the rows of its B, and
each piece gets the same A. A projector that was trained in full goes along as ``modules_to_save``: peft puts it in
place of the base's when it loads the adapter, so nothing that was trained is lost. A tower or language model that was
trained in full cannot go that way and is refused: peft 0.14 wraps only modules called with positional arguments. Nor
can LLaVA-NeXT's newline: it is a tensor, not a module.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmft.errors import CheckpointError, ConfigError
from mmft.export.lazy_tensors import stored_safetensors
from mmft.export.shards import ShardWriter
from mmft.export.trained_weights import TrainedWeights
from mmft.export.training import Training
from mmft.export.weights import WeightsExport
from mmft.file_names import ADAPTER_CONFIG
from mmft.files.tensor_names import module_name
from mmft.json_files import write_json
from mmft.layouts import LAYOUT_NAMES, Layout
from mmft.models.lora import ADAPTER
from mmft.models.tuning import part_of
from mmft.words import count_of

__all__ = ['AdapterExport']

_KINDS = ('lora_A', 'lora_B', 'lora_magnitude_vector')
_PROJECTOR = 'model.multi_modal_projector'
_STEM = 'adapter_model'


class AdapterExport:
    """The adapter of a training, for the HF-native form of its base.

    Args:
        dtype: of all tensors; None keeps float32, in which adapters are trained.

    Attributes:
        tensors: by the names in ``adapter_model.safetensors``.
        ranks, alphas: by module of the transformers model.

    Raises:
        ConfigError: no adapter was trained, or one that a PEFT config cannot describe.
    """

    def __init__(self, source: Training, weights: TrainedWeights, layout: Layout, dtype: torch.dtype | None) -> None:
        self.source, self.weights, self.layout, self.dtype = source, weights, layout, dtype
        self.ranks: dict[str, int] = {}
        self.alphas: dict[str, float] = {}
        self.saved = self._check()
        tensors = self._lora() | (self._projector() if self.saved else {})
        self.tensors = {f'base_model.model.{k}': v.to(dtype or v.dtype).contiguous() for k, v in tensors.items()}

    def _check(self) -> list[str]:
        """Modules that go along as a whole."""
        if not self.weights.adapters:
            raise ConfigError(
                'no LoRA was trained, so there is no adapter to write',
                fix='leave --adapter out: the weights themselves are written',
            )
        if self.source.base is None:
            raise ConfigError(
                'an adapter without a base: the training began with random weights (pretrained=None)',
                fix='leave --adapter out: merged weights hold everything',
            )
        if len({adapter.dora for adapter in self.weights.adapters.values()}) > 1:
            raise ConfigError(
                'LoRA on one part and DoRA on another: a PEFT config has one setting', fix='leave --adapter out'
            )
        whole = [name for name in self.weights.shapes if self.weights.is_trained(name)]
        others = sorted({part_of(name) for name in whole} - {'projector'})
        others += [name for name in whole if name.startswith('merge.')]
        if others:
            raise ConfigError(
                f'--adapter: {others} were trained in full',
                expected='LoRA or frozen parts, and a projector trained in any way',
                fix='leave --adapter out: merged weights hold everything',
            )
        return [_PROJECTOR] if whole else []

    def _lora(self) -> dict[str, Tensor]:
        tensors: dict[str, Tensor] = {}
        for adapter in self.weights.adapters.values():
            (step,) = self.layout.to_theirs([f'{adapter.module}.weight'])
            modules = [module_name(name).removesuffix('.weight') for name in step.outputs]
            for kind in _KINDS:
                stored = adapter.tensors.get(f'{adapter.module}.{kind}.{ADAPTER}.weight')
                if stored is None:
                    continue
                value = stored.read()
                pieces = [value] * len(modules) if kind == 'lora_A' or step.convert is None else step.convert(value)
                suffix = '' if kind == 'lora_magnitude_vector' else '.weight'
                tensors |= {f'{m}.{kind}{suffix}': piece for m, piece in zip(modules, pieces, strict=True)}
            self.ranks |= dict.fromkeys(modules, adapter.r)
            self.alphas |= dict.fromkeys(modules, adapter.alpha)
        return tensors

    def _projector(self) -> dict[str, Tensor]:
        names = [name for name in self.weights.shapes if name.startswith('projector.')]
        found: dict[str, Tensor] = {}
        for step in self.layout.to_theirs(names):
            made = step(lambda name: self.weights.get(name, torch.float32))
            found |= {module_name(name): value for name, value in made.items()}
        return found

    @property
    def nbytes(self) -> int:
        """Of all tensors."""
        return sum(tensor.numel() * tensor.itemsize for tensor in self.tensors.values())

    def describe(self) -> str:
        """What is written."""
        return f'an adapter of {count_of(len(self.ranks), "layer")}'

    def write(self, directory: Path, max_shard_size: int | str = '1TB') -> None:
        """Write ``adapter_config.json``, ``adapter_model.safetensors`` and the encoder. peft reads no shards."""
        kinds = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in self.tensors.items()}
        writer = ShardWriter(directory, kinds, '1TB', _STEM)
        for name, value in self.tensors.items():
            writer.write(name, [value])
        writer.close()
        write_json(directory / ADAPTER_CONFIG, self._config())
        if self.source.encoder is not None:
            self.source.encoder.save_pretrained(directory)

    def _config(self) -> dict[str, Any]:
        first, base = next(iter(self.ranks)), self.source.base
        native = base is not None and base.path is not None and type(base.layout) in LAYOUT_NAMES['hf']
        return {
            'peft_type': 'LORA',
            'task_type': None,
            # peft can only sit on the HF-native form; another base has to be converted first.
            'base_model_name_or_path': str(base.path) if native else None,
            'inference_mode': True,
            'r': self.ranks[first],
            'lora_alpha': self.alphas[first],
            'rank_pattern': {name: r for name, r in self.ranks.items() if r != self.ranks[first]},
            'alpha_pattern': {name: alpha for name, alpha in self.alphas.items() if alpha != self.alphas[first]},
            'lora_dropout': 0.0,
            'bias': 'none',
            'use_dora': next(iter(self.weights.adapters.values())).dora,
            'use_rslora': False,
            'fan_in_fan_out': False,
            'init_lora_weights': True,
            'target_modules': list(self.ranks),
            'modules_to_save': self.saved or None,
        }

    def check_weights(self, directory: Path) -> int:
        """Every tensor is the trained one, and fits a place of its name and shape in transformers' own model.

        Raises:
            CheckpointError: names those that do not.
        """
        with torch.device('meta'):
            target = self.build()
        shapes = {name: tuple(p.shape) for name, p in target.named_parameters(remove_duplicate=False)}
        stored = stored_safetensors(directory / f'{_STEM}.safetensors')
        bad = sorted(stored.keys() ^ self.tensors.keys())
        for name in stored.keys() & self.tensors.keys():
            module, _, kind = name.removeprefix('base_model.model.').removesuffix('.weight').rpartition('.')
            expected = shapes.get(name.removeprefix('base_model.model.'))
            if kind in _KINDS:
                out, width = shapes.get(f'{module}.weight', (0, 0))
                expected = {'lora_A': (self.ranks[module], width), 'lora_B': (out, self.ranks[module])}.get(
                    kind, (out,)
                )
            if stored[name].shape != expected or not torch.equal(stored[name].read(), self.tensors[name]):
                bad.append(f'{name} {stored[name].shape}, {expected} in the model')
        if bad:
            raise CheckpointError(
                f'the adapter is not the trained one, or does not fit {self.layout.architecture}: {bad[:4]}',
                fix='please report it',
            )
        return len(stored)

    def base_state(self) -> dict[str, Tensor]:
        """The weights under the adapter in float32, under the names in transformers' own model."""
        changes = self.layout.adjustments(self.source.contents)
        plain = WeightsExport(
            self.source.model, self.weights.without_adapters(), self.layout, torch.float32, adjustments=changes
        )
        return {module_name(k): v for step in plain.steps for k, v in step(plain.get).items()}

    def build(self) -> torch.nn.Module:
        """transformers' own model of the base, with random weights, in float32."""
        import transformers

        kind = getattr(transformers, self.layout.architecture)
        return kind(kind.config_class(**self.layout.config_json(self.source.contents)))
