"""NF4 weights: what they are, and that gradients pass through them before and after a validation pass."""

from __future__ import annotations

import torch
from torch import nn

from mmft.models.quantize import quantize_nf4


class Part(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down, self.lm_head = nn.Linear(64, 128), nn.Linear(128, 64), nn.Linear(64, 32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.lm_head(self.down(self.up(x)))


def gradient(part: nn.Module, x: torch.Tensor) -> torch.Tensor:
    x = x.clone().requires_grad_()
    part(x).float().square().sum().backward()
    return x.grad


def test_linear_layers_become_four_bits_and_the_head_does_not():
    part = Part().to(torch.bfloat16)
    exact = part.up.weight.detach().float().clone()
    assert quantize_nf4(part) == 2
    assert part.up.weight.dtype == torch.uint8
    assert part.up.weight.numel() == 64 * 128 // 2
    assert type(part.lm_head) is nn.Linear
    assert not any(p.requires_grad for layer in (part.up, part.down) for p in layer.parameters())
    eye = torch.eye(64, dtype=torch.bfloat16)
    kept = (part.up(eye) - part.up.bias).float().T
    # 16 levels, spaced for a normal distribution; a uniform one of range +-1/8 is off by a hundredth at most.
    assert 0 < (kept - exact).abs().max() < 0.025


def test_gradients_are_the_same_after_a_pass_without_gradients():
    part = Part().to(torch.bfloat16)
    quantize_nf4(part)
    x = torch.randn(3, 64).to(torch.bfloat16)
    before = gradient(part.train(), x)
    with torch.no_grad():
        part.eval()(x)
    after = gradient(part.train(), x)
    assert before.abs().max() > 0
    torch.testing.assert_close(after, before)
