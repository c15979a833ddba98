"""A linear layer with LoRA that adds the adapter to the layer's output in place.

peft's layer makes three tensors of the output's size for every adapter (``B A x``, its scaled copy and the sum) and
reads each again; here the base layer's output is the only one, and one matmul adds the scaled adapter to it (measured
in docs/benchmarks.md). All else is peft's: parameters' names, merging, saving, DoRA, adapters switched off.
Imported by ``mmft/models/lora.py`` when adapters are made: importing peft takes a second.
"""

from __future__ import annotations

from typing import Any

from peft.tuners.lora import Linear
from torch import Tensor

__all__ = ['LoraLinear']


class LoraLinear(Linear):
    """``y = W x + b + alpha/r * B A dropout(x)`` (Hu et al. 2021, arXiv:2106.09685), as ``peft.tuners.lora.Linear``.

    Shapes: x (..., in) -> y (..., out), in the dtype of the base layer's output.
    """

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """As peft's; with one plain adapter, as the class says."""
        active = self.active_adapters
        plain = len(active) == 1 and active[0] in self.lora_A and not self.use_dora[active[0]]
        if args or kwargs or not plain or self.disable_adapters or self.merged:
            return super().forward(x, *args, **kwargs)
        name = active[0]
        lora_a, lora_b = self.lora_A[name], self.lora_B[name]
        # Two dimensions, so that the output is the matmul's own tensor: autograd copies what is changed through a view.
        rows = x.reshape(-1, x.shape[-1])
        out = self.base_layer(rows)
        low = lora_a(self.lora_dropout[name](rows.to(lora_a.weight.dtype)))
        if low.dtype == out.dtype:
            # Nothing saved `out` for its gradient (a matmul needs its factors only), so it may change.
            out.addmm_(low, lora_b.weight.to(low.dtype).t(), alpha=self.scaling[name])
        else:  # a 16-bit layer without autocast under a float32 adapter: summed in float32, rounded once
            out = (out + lora_b(low) * self.scaling[name]).to(out.dtype)
        return out.view(*x.shape[:-1], out.shape[-1])
