"""Packed rows: each sample as if it were alone, and the same gradients as a padded batch."""

from __future__ import annotations

import pytest
import torch

from mmft.models.language.packed_attention import segments_of
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
    assert segments_of(None, positions) is None
    assert segments_of(None, None) is None
    assert segments_of(torch.ones(1, 6), torch.tensor([[0, 1, 0, 1, 2, 3]])) is None
    assert segments_of(None, positions.repeat(2, 1)) is None
