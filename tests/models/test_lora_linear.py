"""The LoRA layer against peft's own, value for value and gradient for gradient."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import Linear as PeftLinear
from torch import nn

from mmft.models.lora import inject_lora
from mmft.models.lora_linear import LoraLinear


def pair(dtype: torch.dtype = torch.float32, bias: bool = True, **options) -> tuple[nn.Module, nn.Module]:
    """(ours, peft's) with the same weights, adapters away from zero."""
    torch.manual_seed(0)
    plain = nn.ModuleDict({'fc': nn.Linear(12, 20, bias=bias, dtype=dtype)})
    ours, theirs = copy.deepcopy(plain), copy.deepcopy(plain)
    inject_lora(ours, r=4, alpha=12, **{'dropout': 0.0, **options})
    config = LoraConfig(r=4, lora_alpha=12, lora_dropout=options.get('dropout', 0.0), target_modules=['fc'],
                        use_dora=options.get('dora', False))  # fmt: skip
    inject_adapter_in_model(config, theirs)
    for name, parameter in ours.named_parameters():
        if 'lora_B' in name:
            nn.init.normal_(parameter)
    theirs.load_state_dict(ours.state_dict())
    assert type(ours['fc']) is LoraLinear
    assert type(theirs['fc']) is PeftLinear
    return ours['fc'], theirs['fc']


def passes(layer: nn.Module, x: torch.Tensor, autocast: bool = False) -> list[torch.Tensor]:
    """Output, gradient of the input, gradients of what trains."""
    x = x.clone().requires_grad_()
    torch.manual_seed(1)  # of dropout
    with torch.autocast('cpu', torch.bfloat16, enabled=autocast):
        out = layer(x)
    (out.float() * torch.linspace(-1, 1, out.numel()).view_as(out)).sum().backward()
    return [out, x.grad, *(p.grad for p in layer.parameters() if p.requires_grad)]


@pytest.mark.parametrize('shape', [(3, 12), (2, 3, 12), (1, 0, 12)])
@pytest.mark.parametrize(
    'options', [{}, {'bias': False}, {'dropout': 0.5}, {'dora': True}], ids=['plain', 'no bias', 'dropout', 'dora']
)
def test_is_pefts_layer(options: dict, shape: tuple[int, ...]) -> None:
    ours, theirs = pair(**options)
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(2))
    for mine, wanted in zip(passes(ours, x), passes(theirs, x), strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize('autocast', [True, False])
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16], ids=str)
def test_16_bits(dtype: torch.dtype, autocast: bool) -> None:
    """The output's dtype is peft's; values differ by roundings only."""
    ours, theirs = pair(dtype)
    for name, parameter in [*ours.named_parameters(), *theirs.named_parameters()]:
        if 'lora' in name:
            parameter.data = parameter.data.float()
    x = torch.randn(5, 12, generator=torch.Generator().manual_seed(2)).to(dtype)
    for mine, wanted in zip(passes(ours, x, autocast), passes(theirs, x, autocast), strict=True):
        assert mine.dtype == wanted.dtype
        torch.testing.assert_close(mine, wanted, rtol=0.02, atol=0.1)


def test_switched_off_and_merged() -> None:
    ours, _ = pair()
    x = torch.randn(4, 12)
    adapted, base = ours(x), ours.base_layer(x)
    ours.enable_adapters(False)
    torch.testing.assert_close(ours(x), base)
    ours.enable_adapters(True)
    ours.merge()
    torch.testing.assert_close(ours(x), adapted, rtol=1e-5, atol=1e-5)
    ours.unmerge()
    torch.testing.assert_close(ours(x), adapted, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(base, adapted, atol=0.1)


def test_layers_of_other_kinds_keep_pefts_class() -> None:
    class Quantised(nn.Linear):
        pass

    module = nn.ModuleDict({'fc': Quantised(4, 4)})
    inject_lora(module, r=2, targets=['fc'])
    assert type(module['fc']) is PeftLinear
