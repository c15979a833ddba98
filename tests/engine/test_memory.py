"""The memory estimate against what a real step allocates, counted tensor by tensor."""

from __future__ import annotations

import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mmft.checkpoint.build import build_meta
from mmft.engine.build import tune_on_meta
from mmft.engine.planning.memory import NF4_BYTES, Load, Setting, Weights, estimate, weigh
from mmft.engine.strategies import Sharding
from mmft.engine.strategies.deepspeed_config import sharding_of
from mmft.models import VLM
from mmft.models.tuning import apply_tune

MODEL = {
    'type': 'VLM',
    'vision': {
        'type': 'InternViT',
        'hidden_size': 128,
        'num_hidden_layers': 6,
        'num_attention_heads': 4,
        'intermediate_size': 512,
        'image_size': 112,
    },
    'projector': {'type': 'PixelShuffleMLP'},
    'llm': {
        'type': 'Llama',
        'vocab_size': 4000,
        'hidden_size': 256,
        'intermediate_size': 704,
        'num_hidden_layers': 6,
        'num_attention_heads': 8,
        'num_key_value_heads': 4,
    },
}
LORA = {'type': 'lora', 'r': 16, 'dropout': 0.05}
TUNES = {
    'lora': {'vision': 'frozen', 'projector': 'full', 'llm': LORA},
    'full': {'vision': 'frozen', 'projector': 'full', 'llm': 'full'},
    'vision': {'vision': 'full', 'projector': 'full', 'llm': 'frozen'},
    'everything': {'vision': LORA, 'projector': 'full', 'llm': LORA},
}
LOAD = Load(samples=2, tiles=14, length=240, trained=60)


class Peak(TorchDispatchMode):
    """Counts the bytes of all tensors that are made while it is on and still alive, and their maximum."""

    def __init__(self) -> None:
        super().__init__()
        self.alive = self.peak = 0
        self._seen: dict[int, weakref.ref] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for value in tree_leaves(out):
            if isinstance(value, torch.Tensor):
                self._count(value.untyped_storage())
        return out

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._seen:
            return

        def gone(_: weakref.ref) -> None:
            self.alive -= size
            del self._seen[key]

        self._seen[key] = weakref.ref(storage, gone)
        self.alive += size
        self.peak = max(self.peak, self.alive)


def on_meta(tune: dict) -> tuple[VLM, dict, dict[str, Weights]]:
    model = build_meta(MODEL)
    used, quantised = tune_on_meta(model, tune)
    return model, used, weigh(model, quantised)


def one_step(tune: dict, checkpointing: bool) -> tuple[int, VLM]:
    """Peak bytes of a bfloat16 step beside weights and optimizer state, gradients included."""
    model = VLM(**{key: value for key, value in MODEL.items() if key != 'type'}, image_token_id=0).to(torch.bfloat16)
    apply_tune(model, tune)
    if checkpointing:
        model.gradient_checkpointing_enable()
    model.train()
    ids = torch.randint(1, 4000, (LOAD.samples, LOAD.length))
    ids[:, : LOAD.tiles // LOAD.samples * model.tokens_per_tile] = 0
    labels = torch.full_like(ids, -100)
    labels[:, -LOAD.trained // LOAD.samples :] = ids[:, -LOAD.trained // LOAD.samples :]
    pixels = torch.randint(0, 256, (LOAD.tiles, 3, 112, 112), dtype=torch.uint8)
    mask = torch.ones_like(ids)
    with Peak() as peak:
        for _ in range(2):  # two micro-batches: the gradients of the first are there while the second runs
            with torch.autocast('cpu', torch.bfloat16):
                loss = model(ids, mask, pixels, labels)['loss']
            loss.backward()
    return peak.peak, model


@pytest.mark.parametrize('checkpointing', [True, False], ids=['checkpointing', 'whole'])
@pytest.mark.parametrize('name', TUNES)
def test_estimate_is_near_the_measured_peak(name, checkpointing):
    measured, real = one_step(TUNES[name], checkpointing)
    model, tune, weights = on_meta(TUNES[name])
    made = estimate(model, tune, weights, LOAD, Setting(checkpointing=checkpointing, cuda=False))

    assert sum(part.trained for part in weights.values()) == sum(
        p.numel() for p in real.parameters() if p.requires_grad
    )
    stored = sum(p.numel() * p.element_size() for p in real.parameters())
    assert made.weights == stored
    predicted = made.total - made.weights - made.optimizer - made.update
    # Seen: 0.90 to 1.24. The plan tells users to leave a fifth free.
    assert 0.85 < predicted / measured < 1.35


def test_four_bit_weights_are_counted_where_the_quantiser_puts_them():
    lora, qlora = (on_meta({'llm': {'type': kind, 'r': 16}})[2]['llm'] for kind in ('lora', 'qlora'))
    heads_and_widths = 2 * 256 * 256 + 2 * 256 * 128 + 3 * 256 * 704  # q and o, k and v, the MLP
    assert qlora.nf4 == 6 * heads_and_widths
    assert qlora.trained == lora.trained
    assert qlora.total == lora.total
    assert 0.51 < NF4_BYTES < 0.52  # 4.127 bits, as the QLoRA paper counts them


@pytest.mark.parametrize(('stage', 'optimizer', 'gradients', 'weights'), [(1, 8, 1, 1), (2, 8, 8, 1), (3, 8, 8, 8)])
def test_zero_shares_what_its_stage_shares(stage, optimizer, gradients, weights):
    model, tune, counts = on_meta(TUNES['full'])
    one, many = (
        estimate(model, tune, counts, LOAD, Setting(sharding=Sharding(stage, gpus, offload=False))) for gpus in (1, 8)
    )
    assert one.optimizer == pytest.approx(many.optimizer * optimizer, rel=1e-3)
    assert one.gradients == pytest.approx(many.gradients * gradients, rel=1e-3)
    assert one.weights == pytest.approx(many.weights * weights, rel=1e-3)
    trained = sum(part.trained for part in counts.values())
    assert one.optimizer == 12 * trained  # float32 master weights and AdamW's two moments


def test_offload_leaves_no_optimizer_state_on_the_gpu():
    model, tune, counts = on_meta(TUNES['full'])
    made = estimate(model, tune, counts, LOAD, Setting(sharding=sharding_of('zero2_offload', 8)))
    assert made.optimizer == 0
