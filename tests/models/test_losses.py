"""The chunked head against torch's own cross entropy on full logits: same loss, same gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmft.models.losses import chunked_cross_entropy

CASES = [(17, 5), (8, 8), (64, 1), (3, 100)]


def case(count, bias, dtype=torch.float32, vocabulary=23, width=12):
    head = nn.Linear(width, vocabulary, bias=bias).to(dtype)
    hidden = torch.randn(count, width, dtype=dtype, requires_grad=True)
    return head, hidden, torch.randint(vocabulary, (count,)), torch.rand(count)


@pytest.mark.parametrize('bias', [True, False])
@pytest.mark.parametrize('weighted', [True, False])
@pytest.mark.parametrize('fast', [True, False])
@pytest.mark.parametrize(('count', 'chunk'), CASES)
def test_same_as_full_logits(count, chunk, bias, weighted, fast):
    head, hidden, targets, weight = case(count, bias)
    weight = weight if weighted else None
    losses = F.cross_entropy(head(hidden), targets, reduction='none')
    want = (losses * weight).sum() if weighted else losses.sum()
    parameters = [hidden, *head.parameters()]
    want_grads = torch.autograd.grad(want * 0.37, parameters)
    linear = (head.weight, head.bias) if fast else None
    got = chunked_cross_entropy(hidden, targets, head, linear, weight, chunk)
    torch.testing.assert_close(got, want)
    for a, b in zip(torch.autograd.grad(got * 0.37, parameters), want_grads, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


def test_frozen_head_makes_no_weight_gradient():
    head, hidden, targets, _ = case(9, False)
    head.requires_grad_(False)
    loss = chunked_cross_entropy(hidden, targets, head, (head.weight, None), chunk=4)
    (grad,) = torch.autograd.grad(loss, [hidden])
    want = torch.autograd.grad(F.cross_entropy(head(hidden), targets, reduction='sum'), [hidden])[0]
    torch.testing.assert_close(grad, want)
    assert head.weight.grad is None


@pytest.mark.parametrize('fast', [True, False])
def test_bfloat16_stays_near_float32(fast):
    head, hidden, targets, _ = case(40, False, torch.bfloat16)
    want = F.cross_entropy(hidden.float() @ head.weight.float().T, targets, reduction='sum')
    got = chunked_cross_entropy(hidden, targets, head, (head.weight, None) if fast else None, chunk=7)
    assert got.dtype == torch.float32
    assert got.item() == pytest.approx(want.item(), rel=2e-2)
    got.backward()
    assert head.weight.grad.dtype == torch.bfloat16


def test_autocast_computes_in_16_bit_and_returns_float32_gradients():
    head, hidden, targets, _ = case(20, True)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        loss = chunked_cross_entropy(hidden, targets, head, (head.weight, head.bias), chunk=6)
    loss.backward()
    assert loss.dtype == head.weight.grad.dtype == hidden.grad.dtype == torch.float32
    exact = F.cross_entropy(head(hidden), targets, reduction='sum')
    assert loss.item() == pytest.approx(exact.item(), rel=2e-2)


def test_nothing_trained_is_zero():
    head, hidden, _, _ = case(4, False)
    loss = chunked_cross_entropy(hidden[:0], torch.empty(0, dtype=torch.long), head, (head.weight, None))
    loss.backward()
    assert loss.item() == 0.0
    assert float(head.weight.grad.abs().sum()) == 0.0
