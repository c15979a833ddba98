"""MoEMLP: a sparse mixture of experts, each an MLP, with a router that is kept balanced by a loss of its own."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmft.checks import check_counts, check_numbers
from mmft.errors import ConfigError
from mmft.models.base import Projector
from mmft.models.projectors.mlp import mlp
from mmft.registry import PROJECTORS
from mmft.words import count_of

__all__ = ['MoEMLP', 'balance_loss']


def balance_loss(probs: Tensor, experts: Tensor) -> Tensor:
    """How unevenly tokens spread over E experts: ``E * sum_i f_i * P_i``, float32 scalar.

    ``f_i`` is the share of all (token, choice) pairs that went to expert i, ``P_i`` the mean probability the router
    gave it (Switch Transformer, arXiv:2101.03961, equation 4, for k choices instead of one; the idea is Shazeer et
    al.'s, arXiv:1701.06538). Even routing gives 1, the minimum where tokens follow the probabilities
    (``f = P``); all tokens at the same k experts give up to E/k. Only ``P`` has a gradient: it lowers the probability
    of experts in proportion to how busy they are. A very confident router gets little gradient from it.

    Args:
        probs: (T,E) router probabilities of T tokens.
        experts: (T,k) the chosen experts.

    >>> even = torch.full((4, 4), 0.25)
    >>> balance_loss(even, torch.tensor([[0, 1], [2, 3], [0, 1], [2, 3]])).item()
    1.0
    """
    count = probs.shape[-1]
    share = _rows_per_expert(experts, count) / max(1, experts.numel())
    return count * (share * probs.sum(0) / max(1, len(probs))).sum()


def _rows_per_expert(experts: Tensor, count: int) -> Tensor:
    # Neither bincount, which makes the device wait, nor scatter_add, which is not deterministic there.
    return (experts.flatten().unsqueeze(-1) == torch.arange(count, device=experts.device)).sum(0)


class Router(nn.Linear):
    """A linear map that computes in float32, whatever the weights and the surrounding autocast are."""

    def forward(self, x: Tensor) -> Tensor:
        """(T,Dv) -> (T,E) logits, float32. (Routing in 16 bits is unstable: section 2.4 of the Switch paper.)"""
        with torch.autocast(x.device.type, enabled=False):
            return F.linear(x.float(), self.weight.float())


@PROJECTORS.register_module()
class MoEMLP(Projector):
    """Every patch goes through the ``top_k`` experts its router prefers; their outputs are averaged by preference.

    ``y = sum_{i in top k} w_i * expert_i(x)`` with ``w = softmax(router(x))`` over all experts, renormalised over the
    chosen ones. (With ``top_k=1`` that would be the constant 1 and the router would learn nothing from the task, so
    there ``w`` is the probability itself, as in the Switch Transformer.) No token is dropped, there is no capacity.

    In training mode ``losses['balance_loss']`` is ``balance_coef`` times ``balance_loss`` over the tokens of this
    forward.

    Started from a dense MLP (``adopt``) all experts are copies of it, so the first output is the dense one's; they
    diverge as the router sends them different tokens.

    Args:
        in_dim: Dv of the vision tower.
        out_dim: Dl of the language model.
        num_experts: E.
        top_k: experts per patch.
        depth, act, hidden_dim: of each expert, as in ``MLP``.
        balance_coef: weight of the balance loss; 0 leaves it out.

    >>> import torch
    >>> MoEMLP(8, 12)(torch.zeros(2, 16, 8)).shape
    torch.Size([2, 16, 12])
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        num_experts: int = 4,
        top_k: int = 2,
        depth: int = 2,
        act: str = 'gelu',
        hidden_dim: int | None = None,
        balance_coef: float = 0.01,
    ) -> None:
        super().__init__()
        check_counts('MoEMLP', in_dim=in_dim, out_dim=out_dim, num_experts=num_experts, top_k=top_k)
        check_numbers('MoEMLP', least=0, balance_coef=balance_coef)  # a negative one would reward imbalance
        if top_k > num_experts:
            raise ConfigError(
                f'MoEMLP: top_k {top_k} of {count_of(num_experts, "expert")}', expected=f'top_k from 1 to {num_experts}'
            )
        self.in_dim, self.out_dim, self.num_experts, self.top_k = in_dim, out_dim, num_experts, top_k
        self.depth, self.act, self.hidden_dim, self.balance_coef = depth, act, hidden_dim, balance_coef
        self.router = Router(in_dim, num_experts, bias=False)
        # Small: at the start all experts are about equally likely.
        nn.init.normal_(self.router.weight, std=0.02)
        self.experts = nn.ModuleList(mlp(in_dim, out_dim, depth, act, hidden_dim) for _ in range(num_experts))

    def adopt(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A dense ``MLP``'s tensors as those of every expert; the router, which it does not have, is left out.

        >>> sorted(MoEMLP(8, 12, num_experts=2).adopt({'mlp.0.bias': torch.zeros(12)}))
        ['experts.0.0.bias', 'experts.1.0.bias']
        """
        new: dict[str, Tensor] = {}
        for name, tensor in state.items():
            if dense := re.fullmatch(r'mlp\.(\d+\.\w+)', name):
                # Copies: the experts must not share memory.
                new.update({f'experts.{i}.{dense[1]}': tensor.clone() for i in range(self.num_experts)})
            else:
                new[name] = tensor
        return new

    def num_tokens(self, num_patches: int) -> int:
        """Q = P."""
        return num_patches

    def route(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(T,Dv) -> (T,k) weights, (T,k) experts, (T,E) probabilities; weights and probabilities are float32."""
        probs = self.router(x).softmax(dim=-1)
        weights, experts = probs.topk(self.top_k, dim=-1)
        if self.top_k > 1:
            weights = weights / weights.sum(dim=-1, keepdim=True)
        return weights, experts, probs

    def forward(self, x: Tensor) -> Tensor:
        """(N,P,Dv) -> (N,P,Dl)."""
        tokens = x.flatten(0, 1)
        weights, experts, probs = self.route(tokens)
        self.losses = {}
        if self.training and self.balance_coef:
            self.losses['balance_loss'] = self.balance_coef * balance_loss(probs, experts)
        # One row per (token, choice), sorted by expert: each expert then runs once, on the rows that chose it.
        order = experts.flatten().argsort(stable=True)
        counts = _rows_per_expert(experts, self.num_experts).tolist()
        rows = tokens[order // self.top_k].split(counts)
        # An expert that nobody chose runs too, on no rows: its gradients are then zeros instead of missing, and all
        # ranks run the same modules. DDP's reducer and ZeRO-3's gathering would wait for it otherwise.
        out = torch.cat([expert(share) for expert, share in zip(self.experts, rows, strict=True)])
        out = out[order.argsort()].unflatten(0, (-1, self.top_k))
        out = (out * weights.unsqueeze(-1)).sum(dim=1).to(out.dtype)
        return out.unflatten(0, x.shape[:2])
