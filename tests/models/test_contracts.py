"""What is registered keeps its contract: the tests walk the registries, so a new part is covered unasked."""

from __future__ import annotations

import copy

import pytest
import torch

from mmft.errors import ConfigError
from mmft.models import VLM
from mmft.registry import LANGUAGE_MODELS, OPTIMIZERS, PROJECTORS, VISION_TOWERS

SIDE, DV, DL, VOCABULARY, SLOT = 56, 32, 24, 64, 60

# What a part needs beyond the common arguments. A new part whose constructor takes the common ones needs no line here.
TOWER = {
    'hidden_size': DV,
    'num_hidden_layers': 2,
    'num_attention_heads': 2,
    'intermediate_size': 48,
    'image_size': SIDE,
}
LLM = {
    'vocab_size': VOCABULARY,
    'hidden_size': DL,
    'intermediate_size': 32,
    'num_hidden_layers': 2,
    'num_attention_heads': 2,
    'num_key_value_heads': 1,
    'pad_token_id': 0,
    'bos_token_id': 1,
    'eos_token_id': 2,
}
SPECIAL = {'Phi3': {'original_max_position_embeddings': 4096}}

TOWERS, CONNECTORS, LLMS = VISION_TOWERS.names(), PROJECTORS.names(), LANGUAGE_MODELS.names()


def build(tower='InternViT', projector='PixelShuffleMLP', llm='Llama'):
    return VLM(
        {'type': tower, **TOWER}, {'type': projector}, {'type': llm, **LLM, **SPECIAL.get(llm, {})}, image_token_id=SLOT
    )


def test_the_registries_are_not_empty():
    assert 'InternViT' in TOWERS
    assert 'PixelShuffleMLP' in CONNECTORS
    assert set(LLMS) >= {'InternLM2', 'Llama', 'Phi3', 'Qwen2'}


def test_a_misspelt_argument():
    with pytest.raises(ConfigError, match=r"(?s)InternViT: .*'hiden_size'.*did you mean 'hidden_size'"):
        VISION_TOWERS.build({'type': 'InternViT', 'hiden_size': DV})
    with pytest.raises(ConfigError, match=r"(?s)no optimizer is named 'AdamWW'.*did you mean 'AdamW'"):
        OPTIMIZERS.build({'type': 'AdamWW', 'lr': 1.0})


@pytest.mark.parametrize('name', TOWERS)
def test_vision_tower(name):
    tower = VISION_TOWERS.build({'type': name, **TOWER}).eval()
    assert tower.hidden_size == DV
    assert tower.image_size == SIDE
    assert len(tower.layers) == 2
    for side in (SIDE, SIDE // 2):
        out = tower(torch.rand(3, 3, side, side))
        assert out.shape == (3, tower.num_patches(side), DV)
    # Tiles do not see each other.
    pixels = torch.rand(4, 3, SIDE, SIDE)
    torch.testing.assert_close(tower(pixels)[1:2], tower(pixels[1:2]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize('name', CONNECTORS)
def test_projector(name):
    projector = PROJECTORS.build({'type': name, 'in_dim': DV, 'out_dim': DL}).eval()
    patches = torch.rand(3, 16, DV, requires_grad=True)
    out = projector(patches)
    assert out.shape == (3, projector.num_tokens(16), DL)
    torch.testing.assert_close(out[1:2], projector(patches[1:2]))
    out.sum().backward()
    assert patches.grad is not None
    assert all(p.grad is not None for p in projector.parameters())


@pytest.mark.parametrize('name', LLMS)
def test_language_model(name):
    llm = LANGUAGE_MODELS.build({'type': name, **LLM, **SPECIAL.get(name, {})}).eval()
    assert (llm.hidden_size, llm.vocab_size) == (DL, VOCABULARY)
    ids = torch.randint(3, VOCABULARY, (2, 7))
    embeds = llm.embed(ids)
    hidden = llm.hidden(embeds, None, None)
    assert embeds.shape == hidden.shape == (2, 7, DL)
    # The skin adds nothing: transformers' own forward gives the same logits.
    torch.testing.assert_close(llm.head(hidden), llm.lm(input_ids=ids).logits)
    weight, bias = llm.linear_head()
    torch.testing.assert_close(torch.nn.functional.linear(hidden, weight, bias), llm.head(hidden))
    new = llm.generate(
        embeds, torch.ones_like(ids), max_new_tokens=3, do_sample=False, eos_token_id=None, pad_token_id=0
    )
    assert new.shape == (2, 3)


MATRIX = [(t, p, m) for t in TOWERS for p in CONNECTORS for m in LLMS]


@pytest.mark.parametrize(('tower', 'projector', 'llm'), MATRIX)
def test_every_mix_trains_saves_and_answers_the_same(tower, projector, llm):
    model = build(tower, projector, llm).train()
    tokens = model.tokens_per_tile
    ids = torch.tensor([[1, *[SLOT] * 2 * tokens, 5, 6, 7, 8, 2]])
    labels = ids.clone()
    labels[:, : 2 * tokens + 3] = -100
    batch = {
        'input_ids': ids,
        'labels': labels,
        'pixel_values': torch.randint(256, (2, 3, SIDE, SIDE), dtype=torch.uint8),
    }
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    first = model(**batch)['loss']
    first.backward()
    assert all(p.grad is not None for p in model.parameters())
    optimizer.step()
    assert model(**batch)['loss'] < first
    model.eval()
    again = copy.deepcopy(build(tower, projector, llm)).eval()
    again.load_state_dict(model.state_dict())
    batch.pop('labels')
    with torch.no_grad():
        torch.testing.assert_close(again(**batch, mode='tensor'), model(**batch, mode='tensor'))


@pytest.mark.parametrize(('tower', 'projector', 'llm'), MATRIX)
def test_meta_build_has_the_same_parameters(tower, projector, llm):
    with torch.device('meta'):
        meta = build(tower, projector, llm)
    real = build(tower, projector, llm)
    assert {k: v.shape for k, v in meta.named_parameters()} == {k: v.shape for k, v in real.named_parameters()}
    meta.llm.reset_buffers()
    assert all(not buffer.is_meta for buffer in meta.buffers())
    for (name, a), (_, b) in zip(meta.named_buffers(), real.named_buffers(), strict=True):
        torch.testing.assert_close(a, b, msg=name)
