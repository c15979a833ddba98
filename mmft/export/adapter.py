"""A PEFT adapter directory: what was trained, for ``peft.PeftModel.from_pretrained`` over the HF-native base.

LoRA layers become LoRA layers; where the layout splits a packed layer (the ViT's qkv), so are the rows of its B, and
each piece gets the same A. A projector that was trained in full goes along as ``modules_to_save``: peft puts it in
place of the base's when it loads the adapter, so nothing that was trained is lost. A ViT or language model that was
trained in full cannot go that way and is refused: peft 0.14 wraps only modules called with positional arguments.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mmft.checkpoint.layouts import InternVLHF, Layout
from mmft.checkpoint.load import as_dtype
from mmft.errors import CheckpointError, ConfigError
from mmft.export import hf
from mmft.export.files import write_json
from mmft.export.merge import TrainedWeights
from mmft.export.shards import ShardWriter
from mmft.export.stored import stored_safetensors
from mmft.models.lora import ADAPTER
from mmft.models.tuning import part_of
from mmft.models.vlm import VLM

if TYPE_CHECKING:
    from mmft.data.encoder import ChatEncoder

__all__ = ['module_name', 'write_adapter']

_KINDS = ('lora_A', 'lora_B', 'lora_magnitude_vector')
_MODULES = (
    # How transformers names modules inside InternVLForConditionalGeneration, against names in its weight files.
    ('language_model.model.', 'model.language_model.'),
    ('language_model.lm_head.', 'lm_head.'),
    ('vision_tower.', 'model.vision_tower.'),
    ('multi_modal_projector.', 'model.multi_modal_projector.'),
)
_PROJECTOR = 'model.multi_modal_projector'


def module_name(key: str) -> str:
    """A name in HF-native weight files -> the parameter's name inside the transformers model.

    >>> module_name('language_model.model.norm.weight')
    'model.language_model.norm.weight'
    """
    for prefix, name in _MODULES:
        if key.startswith(prefix):
            return name + key.removeprefix(prefix)
    raise ValueError(key)


def write_adapter(
    directory: Path,
    model: VLM,
    weights: TrainedWeights,
    layout: Layout,
    encoder: ChatEncoder | None,
    dtype: str,
) -> dict[str, float]:
    """Write ``adapter_config.json``, ``adapter_model.safetensors`` and the tokenizer, and check names and shapes.

    Args:
        model: on the meta device.
        layout: the HF-native one.
        dtype: ``auto`` keeps float32, in which adapters are trained.

    Raises:
        ConfigError: no adapter was trained, or one that a PEFT config cannot describe.
    """
    if not weights.adapters:
        raise ConfigError(
            'no LoRA was trained, so there is no adapter to write',
            fix='leave --adapter out: the weights themselves are written',
        )
    if len({adapter.dora for adapter in weights.adapters.values()}) > 1:
        raise ConfigError(
            'LoRA on one part and DoRA on another: a PEFT config has one setting', fix='leave --adapter out'
        )
    tensors, ranks, alphas = _lora(weights, layout)
    full = sorted({part_of(name) for name in model.state_dict() if weights.is_trained(name)})
    if other := sorted(set(full) - {'projector'}):
        raise ConfigError(
            f'--adapter: {other} were trained in full',
            expected='LoRA or frozen parts, and a projector trained in any way',
            fix='leave --adapter out: merged weights hold everything',
        )
    if full:
        tensors |= _whole_part('projector', model, weights, layout)
    kind = as_dtype(dtype)
    tensors = {f'base_model.model.{name}': value.to(kind or value.dtype) for name, value in tensors.items()}
    writer = ShardWriter(
        directory, {n: (t.dtype, tuple(t.shape)) for n, t in tensors.items()}, '1TB', stem='adapter_model'
    )
    for name, value in tensors.items():
        writer.write(name, [value])
    writer.close()
    write_json(directory / 'adapter_config.json', _config(weights, ranks, alphas, [_PROJECTOR] if full else []))
    if encoder is not None:
        encoder.save_pretrained(directory)
    return {'tensors': _check(directory, model, encoder, ranks)}


def _lora(weights: TrainedWeights, layout: Layout) -> tuple[dict[str, Tensor], dict[str, int], dict[str, float]]:
    tensors: dict[str, Tensor] = {}
    ranks: dict[str, int] = {}
    alphas: dict[str, float] = {}
    for adapter in weights.adapters.values():
        (step,) = layout.to_theirs([f'{adapter.module}.weight'])
        modules = [module_name(name).removesuffix('.weight') for name in step.outputs]
        for kind in _KINDS:
            stored = adapter.tensors.get(f'{adapter.module}.{kind}.{ADAPTER}.weight')
            if stored is None:
                continue
            value = stored.read()
            pieces = [value] * len(modules) if kind == 'lora_A' or step.convert is None else step.convert(value)
            tensors |= {f'{m}.{kind}.weight' if kind != 'lora_magnitude_vector' else f'{m}.{kind}': piece
                        for m, piece in zip(modules, pieces, strict=True)}  # fmt: skip
        ranks |= dict.fromkeys(modules, adapter.r)
        alphas |= dict.fromkeys(modules, adapter.alpha)
    return tensors, ranks, alphas


def _whole_part(part: str, model: VLM, weights: TrainedWeights, layout: Layout) -> dict[str, Tensor]:
    names = [name for name, _ in model.named_parameters() if part_of(name) == part]
    found: dict[str, Tensor] = {}
    for step in layout.to_theirs(names):
        found |= {module_name(name): value for name, value in step(lambda n: weights.get(n, torch.float32)).items()}
    return found


def _config(
    weights: TrainedWeights, ranks: dict[str, int], alphas: dict[str, float], saved: list[str]
) -> dict[str, Any]:
    first = next(iter(ranks))
    base = weights.base
    return {
        'peft_type': 'LORA',
        'task_type': None,
        # peft can only sit on the HF-native form; an official base has to be converted first.
        'base_model_name_or_path': str(base.path) if base is not None and isinstance(base.layout, InternVLHF) else None,
        'inference_mode': True,
        'r': ranks[first],
        'lora_alpha': alphas[first],
        'rank_pattern': {name: r for name, r in ranks.items() if r != ranks[first]},
        'alpha_pattern': {name: alpha for name, alpha in alphas.items() if alpha != alphas[first]},
        'lora_dropout': 0.0,
        'bias': 'none',
        'use_dora': next(iter(weights.adapters.values())).dora,
        'use_rslora': False,
        'fan_in_fan_out': False,
        'init_lora_weights': True,
        'target_modules': list(ranks),
        'modules_to_save': saved or None,
    }


def _check(directory: Path, model: VLM, encoder: ChatEncoder | None, ranks: dict[str, int]) -> int:
    """Every tensor fits a place of its name and shape in transformers' own model."""
    from transformers import InternVLConfig, InternVLForConditionalGeneration

    with torch.device('meta'):
        target: nn.Module = InternVLForConditionalGeneration(
            InternVLConfig(**hf.model_config(model, encoder, 'float32'))
        )
    shapes = {name: tuple(p.shape) for name, p in target.named_parameters(remove_duplicate=False)}
    stored = stored_safetensors(directory / 'adapter_model.safetensors')
    bad = []
    for name, value in stored.items():
        name = name.removeprefix('base_model.model.')
        module, _, kind = name.removesuffix('.weight').rpartition('.')
        if kind in _KINDS:
            out, width = shapes.get(f'{module}.weight', (0, 0))
            expected = {'lora_A': (ranks[module], width), 'lora_B': (out, ranks[module])}.get(kind, (out,))
        else:
            expected = shapes.get(name)
        if value.shape != expected:
            bad.append(f'{name} {value.shape}, {expected} in the model')
    if bad:
        raise CheckpointError(f'the adapter does not fit transformers InternVL: {bad[:4]}', fix='please report it')
    return len(stored)
