"""Memory of a training step, predicted from shapes: nothing is allocated and no weights are needed.

Shapes: B samples per batch, L tokens of the longest, N tiles of the batch, P patches per tile, h hidden size, f
intermediate size, V vocabulary. Sizes are bytes on one GPU. ``tests/engine/test_memory.py`` compares them with what
torch keeps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from mmft.engine.strategies.base import Sharding
from mmft.models.lora import is_lora_key
from mmft.models.losses import CHUNK_BYTES
from mmft.models.tuning import part_of
from mmft.models.vlm import VLM

__all__ = ['Load', 'Memory', 'Setting', 'Weights', 'estimate', 'weigh']

NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
"""Per weight: 4 bits, an 8-bit scale per 64 weights, a float32 scale per 256 of these (double quantisation)."""

CUDA_BYTES = 3 * 2**29
"""CUDA context, cuBLAS workspaces and what the allocator cannot use: about 1.5 GiB on today's GPUs."""

ZERO_BYTES = 2 * 2**30
"""Buckets of ZeRO's collectives, and with stage 3 the gathered weights of the blocks at work: about 2 GiB."""

MOMENTS = {'AdamW': 2, 'Adam': 2, 'NAdam': 2, 'RAdam': 2, 'Lion': 1, 'RMSprop': 1, 'Adagrad': 1, 'SGD': 0}
"""Float32 numbers that an optimizer keeps per trained weight; others are taken for two."""


@dataclass(frozen=True)
class Weights:
    """How many weights of a part are kept in which way.

    Attributes:
        frozen: kept in the config's ``dtype``.
        nf4: kept in 4 bits.
        trained: kept in float32, with gradient and optimizer state.
    """

    frozen: int = 0
    nf4: int = 0
    trained: int = 0

    @property
    def total(self) -> int:
        """All weights of the part."""
        return self.frozen + self.nf4 + self.trained


@dataclass(frozen=True)
class Load:
    """One batch: B samples, N tiles in all, L tokens in the longest row, ``trained`` tokens with a label in all."""

    samples: int
    tiles: int
    length: int
    trained: int


@dataclass(frozen=True)
class Setting:
    """What of a config decides about memory, beside its model and ``tune``."""

    weight_bytes: int = 2
    compute_bytes: int = 2
    moments: int = 2
    checkpointing: bool = True
    sharding: Sharding = field(default_factory=Sharding)
    cuda: bool = True


@dataclass(frozen=True)
class Memory:
    """Bytes on one GPU at the peak of a step.

    Attributes:
        update: what the optimizer's update needs beyond the activations, which are gone by then.
    """

    weights: int
    autocast: int
    gradients: int
    optimizer: int
    vision: int
    llm: int
    logits: int
    update: int
    cuda: int

    @property
    def total(self) -> int:
        """The sum."""
        return sum(self.rows().values())

    def rows(self) -> dict[str, int]:
        """The parts of the sum, named for people."""
        return {
            'weights': self.weights,
            '16-bit copies (autocast)': self.autocast,
            'gradients': self.gradients,
            'optimizer state': self.optimizer,
            'activations, vision': self.vision,
            'activations, language model': self.llm,
            'logits of one chunk': self.logits,
            "optimizer's temporaries": self.update,
            'CUDA, allocator, buckets': self.cuda,
        }


def weigh(model: VLM, quantised: set[str]) -> dict[str, Weights]:
    """Weights per part of a tuned model; ``quantised`` as ``tune_on_meta`` gives it."""
    linear = {
        f'{name}.weight'
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear) and not name.endswith('lm_head') and not is_lora_key(f'.{name}.')
    }
    counts = {part: {'frozen': 0, 'nf4': 0, 'trained': 0} for part in model.parts}
    for name, parameter in model.named_parameters():
        part = part_of(name)
        nf4 = part in quantised and name in linear
        counts[part]['trained' if parameter.requires_grad else 'nf4' if nf4 else 'frozen'] += parameter.numel()
    return {part: Weights(**count) for part, count in counts.items()}


def estimate(
    model: VLM, tune: Mapping[str, Mapping[str, Any]], weights: Mapping[str, Weights], load: Load, setting: Setting
) -> Memory:
    """The peak of one training step on one GPU.

    - weights: frozen x its dtype + 4-bit x 0.516 + trained x 4. With ZeRO trained x c (bytes of the computation);
      stage 3 leaves 1/n of all, and nothing with offload.
    - autocast: trained x 2, the 16-bit copies that autocast keeps of float32 weights during a forward pass; none
      with ZeRO, whose working weights are 16-bit.
    - gradients: trained x 4 (ZeRO: x c, from stage 2 on 1/n).
    - optimizer: trained x 4 x moments (ZeRO: + 4 for float32 master weights, 1/n; 0 with offload).
    - activations: see ``vision_bytes`` and ``llm_bytes``.
    - logits: rows of a chunk x V x (8 + c): float32 logits, their exponentials, the gradient in c bytes.
    - update: trained x 4, a temporary as large as what torch's update works on (ZeRO: 1/n), less the activations.

    Args:
        model: on the meta device, tuned.
        tune: as used (``tune_on_meta``).
        weights: as ``weigh`` gives them.
        load: the batch.
        setting: of the run.
    """
    zero, c = setting.sharding, setting.compute_bytes
    trained = sum(part.trained for part in weights.values())
    kept = sum(part.frozen for part in weights.values()) * setting.weight_bytes
    kept += sum(part.nf4 for part in weights.values()) * NF4_BYTES
    narrow = c if zero.stage else 4
    masters = setting.moments + (1 if narrow < 4 else 0)
    rows = min(load.trained, max(16, CHUNK_BYTES // (4 * model.llm.vocab_size)))
    autocast = trained * 2 if c < 4 and not zero.stage else 0
    vision, llm = vision_bytes(model, tune, load, setting), llm_bytes(model, tune, load, setting)
    logits = rows * model.llm.vocab_size * (8 + c)
    update = 0 if zero.offload else int(trained * 4 * zero.share(1)) - (autocast + vision + llm + logits)
    return Memory(
        weights=0 if zero.offload and zero.stage == 3 else int((kept + trained * narrow) * zero.share(3)),
        autocast=autocast,
        gradients=int(trained * narrow * zero.share(2)),
        optimizer=0 if zero.offload else int(trained * 4 * masters * zero.share(1)),
        vision=vision,
        llm=llm,
        logits=logits,
        update=max(0, update),
        cuda=(CUDA_BYTES + (ZERO_BYTES if zero.stage else 0)) if setting.cuda else 0,
    )


def vision_bytes(model: VLM, tune: Mapping[str, Mapping[str, Any]], load: Load, setting: Setting) -> int:
    """Tower and projector.

    Per patch and block, c bytes a number and r bytes in the residual stream (4 where its weights are trained, else c):
    backward needs both norms' inputs and outputs 2 (r + c) h, q, k, v and the attention's output 4 c h, the branches
    before and after their layer scale 2 (r + c) h, the MLP's hidden layer before and after its activation 2 c f; LoRA
    adds (c + 5) bytes per number that an adapter reads. A frozen tower keeps nothing: one block's working set,
    c (3 h + max(4 h, 2 f)). With checkpointing each block keeps its input, r h, and one block at a time is whole,
    together with its gradients, c (4 h + 2 f). Blocks that never run keep nothing.
    """
    tower, c = model.vision, setting.compute_bytes
    patches = tower.num_patches(tower.image_size)
    h = tower.hidden_size
    f = getattr(tower, 'intermediate_size', 4 * h)
    spec, idle = tune['vision'], {id(layer) for layer in tower.idle_layers}
    depth = sum(id(layer) not in idle for layer in tower.layers)
    r = _residual_bytes(spec, setting)
    whole = 4 * (r + c) * h + c * (4 * h + 2 * f) + _lora_bytes(spec, 3 * h + f, c)
    if spec['type'] == 'frozen':
        per_patch = c * (3 * h + max(4 * h, 2 * f))
    else:
        depth = max(1, depth - (spec.get('from_layer') or 0))
        per_patch = depth * r * h + whole + c * (4 * h + 2 * f) if setting.checkpointing else depth * whole
    return load.tiles * ((patches + 1) * per_patch + projector_bytes(model, c))


def projector_bytes(model: VLM, c: int) -> int:
    """The projector, per tile, c bytes a number.

    It keeps what it reads before and after a norm, (c + 4) P h, and 3 rows of the language model's width per token (and
    expert). A Q-Former keeps keys and values of all patches in every second block, some 20 rows per query and block.
    """
    tower, projector = model.vision, model.projector
    patches = tower.num_patches(tower.image_size)
    tokens, width = model.num_image_tokens(tower.image_size), model.llm.hidden_size
    numbers = 3 * tokens * width * getattr(projector, 'top_k', 1)
    if (config := getattr(getattr(projector, 'qformer', None), 'config', None)) is not None:
        rows = patches * (config.num_hidden_layers // config.cross_attention_frequency + 1) * 2
        numbers += (rows + 20 * tokens * config.num_hidden_layers) * config.hidden_size
    return (c + 4) * patches * tower.hidden_size + c * numbers


def llm_bytes(model: VLM, tune: Mapping[str, Mapping[str, Any]], load: Load, setting: Setting) -> int:
    """The language model's blocks.

    Per token and block, c bytes a number and r bytes in the residual stream (4 where its weights are trained, else c):
    RMS norms work in float32 and keep input and normalised values, 2 (8 + c) h + 2 r h; q, k, v before and after rope
    and the attention's output c (2 q + 4 k) + 2 c q, the MLP c 4 f; LoRA adds (c + 5) bytes (the float32 copy, the
    dropout mask, the 16-bit copy) per number that an adapter reads. With checkpointing each block keeps its input, r h,
    and one block at a time is whole, together with its gradients, c (4 h + 4 f).
    """
    config, c = model.llm.lm.config, setting.compute_bytes
    h, f = config.hidden_size, config.intermediate_size
    head = getattr(config, 'head_dim', None) or h // config.num_attention_heads
    q = config.num_attention_heads * head
    k = (getattr(config, 'num_key_value_heads', None) or config.num_attention_heads) * head
    spec, depth = tune['llm'], config.num_hidden_layers
    r = _residual_bytes(spec, setting)
    whole = 2 * (8 + c) * h + 2 * r * h + c * (4 * q + 4 * k) + 4 * c * f + _lora_bytes(spec, 5 * h + q + f, c)
    if spec['type'] == 'frozen' and tune['projector']['type'] == 'frozen' and tune['vision']['type'] == 'frozen':
        per_token = whole
    elif setting.checkpointing:
        per_token = depth * r * h + whole + c * (4 * h + 4 * f)
    else:
        per_token = depth * whole
    return load.samples * load.length * (per_token + 3 * r * h)


def _residual_bytes(spec: Mapping[str, Any], setting: Setting) -> int:
    """Float32 weights of a trained part make its residual stream float32; ZeRO's are narrow."""
    if spec['type'] == 'full' and not setting.sharding.stage:
        return 4
    return max(setting.compute_bytes, setting.weight_bytes)


def _lora_bytes(spec: Mapping[str, Any], numbers: int, c: int) -> int:
    """Adapters read all linear layers' inputs: a float32 copy, with dropout its mask, and the copy to compute in."""
    if spec['type'] not in ('lora', 'qlora'):
        return 0
    dropout = 5 if spec.get('dropout') else 4
    return numbers * (dropout + (c if c < 4 else 0))
