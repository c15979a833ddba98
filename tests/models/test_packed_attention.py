"""Packed rows: each sample as if it were alone, and the same gradients as a padded batch."""

from __future__ import annotations

import pytest
import torch

from mmft.models.language.packed_attention import lengths_as_mask
from mmft.registry import LANGUAGE_MODELS
from tests.models.parts import LLM, LLMS, SPECIAL

LENGTHS = (5, 1, 9)


@pytest.mark.parametrize('checkpointing', [False, True])
@pytest.mark.parametrize('implementation', ['sdpa', 'eager'])
@pytest.mark.parametrize('name', LLMS)
def test_a_packed_row_is_its_samples(name, implementation, checkpointing):
    llm = LANGUAGE_MODELS.build(
        {'type': name, **LLM, **SPECIAL.get(name, {}), 'attn_implementation': implementation}
    ).train()
    if checkpointing:
        llm.gradient_checkpointing_enable()
    row = torch.randn(1, sum(LENGTHS), LLM['hidden_size'], requires_grad=True)
    positions = torch.cat([torch.arange(length) for length in LENGTHS])[None]
    got = llm.hidden(row, None, positions)
    alone = torch.cat([llm.hidden(part, None, None) for part in row.split(LENGTHS, dim=1)], dim=1)
    torch.testing.assert_close(got, alone, atol=1e-5, rtol=1e-5)
    weight = torch.randn_like(got)
    grads = [torch.autograd.grad((out * weight).sum(), row, retain_graph=True)[0] for out in (got, alone)]
    torch.testing.assert_close(*grads, atol=1e-5, rtol=1e-4)


def test_what_is_no_packed_row():
    positions = torch.arange(6)[None]
    assert lengths_as_mask(None, positions) is None
    assert lengths_as_mask(None, None) is None
    mask = torch.ones(1, 6)
    assert lengths_as_mask(mask, torch.tensor([[0, 1, 0, 1, 2, 3]])) is mask
    assert lengths_as_mask(None, positions.repeat(2, 1)) is None


WINDOWED = {'Phi3': {}, 'Mistral': {}, 'Qwen2': {'use_sliding_window': True, 'max_window_layers': 1}}


@pytest.mark.parametrize('window', [1, 3, 9, 100, None])
@pytest.mark.parametrize('name', WINDOWED)
def test_a_sliding_window_is_that_of_each_sample(name, window):
    settings = {'type': name, **LLM, **SPECIAL.get(name, {}), **WINDOWED[name], 'sliding_window': window}
    torch.manual_seed(0)
    packed = LANGUAGE_MODELS.build(settings)
    eager = LANGUAGE_MODELS.build({**settings, 'attn_implementation': 'eager'})
    eager.load_state_dict(packed.state_dict())
    row = torch.randn(1, sum(LENGTHS), LLM['hidden_size'])
    positions = torch.cat([torch.arange(length) for length in LENGTHS])[None]
    got, expected = packed.hidden(row, None, positions), eager.hidden(row, None, positions)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    alone = torch.cat([eager.hidden(part, None, None) for part in row.split(LENGTHS, dim=1)], dim=1)
    torch.testing.assert_close(got, alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(('window', 'sides'), [(None, []), (100, []), (9, []), (8, [9]), (3, [5, 9])])
@pytest.mark.parametrize('name', [*LLMS])
def test_no_mask_is_as_long_as_a_packed_row(name, window, sides, monkeypatch):
    """Only samples that are longer than a window have one, each its own."""
    own = {**WINDOWED[name], 'sliding_window': window} if name in WINDOWED else {}
    llm = LANGUAGE_MODELS.build({'type': name, **LLM, **SPECIAL.get(name, {}), **own})
    attend, masks = torch.nn.functional.scaled_dot_product_attention, []

    def watched(query, key, value, attn_mask=None, **kwargs):
        masks.append(None if attn_mask is None else attn_mask.shape[-1])
        return attend(query, key, value, attn_mask=attn_mask, **kwargs)

    def never(*_):
        raise AssertionError('transformers makes a mask of the whole row')

    monkeypatch.setattr(torch.nn.functional, 'scaled_dot_product_attention', watched)
    monkeypatch.setattr('transformers.masking_utils.packed_sequence_mask_function', never)
    positions = torch.cat([torch.arange(length) for length in LENGTHS])[None]
    llm.hidden(torch.randn(1, sum(LENGTHS), LLM['hidden_size']), None, positions)
    layers = len(llm.layers)
    assert len(masks) == layers * len(LENGTHS)
    expected = sides if name in WINDOWED else []
    found = sorted({mask for mask in masks if mask is not None})
    assert found == expected
    assert sum(mask is None for mask in masks) >= layers * (len(LENGTHS) - len(expected))
