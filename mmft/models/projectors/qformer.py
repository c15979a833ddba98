"""QFormer: BLIP-2's querying transformer, also as MiniGPT-4 and TinyLLaVA use it, over transformers' own class."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import Blip2QFormerConfig, Blip2QFormerModel

from mmft.checks import check_counts, check_numbers
from mmft.errors import ConfigError
from mmft.models.base import Projector
from mmft.models.refusals import refused_by
from mmft.registry import PROJECTORS

__all__ = ['QFormer']


@PROJECTORS.register_module()
class QFormer(Projector):
    """Learned queries go through a BERT whose every second layer also attends to the patches, then one linear map.

    BLIP-2 (arXiv:2301.12597) is the default. MiniGPT-4: ``frozen_qformer=True``, so that only the linear map trains.
    TinyLLaVA's BERT connector: ``query_norm=False``.

    Args:
        in_dim: Dv of the vision tower.
        out_dim: Dl of the language model.
        num_queries: Q, however many patches there are.
        hidden_size, num_hidden_layers, num_attention_heads, intermediate_size, cross_attention_frequency, hidden_act,
            layer_norm_eps, initializer_range: transformers' ``Blip2QFormerConfig``.
        dropout: after each sublayer and on the attention weights, in training.
        query_norm: whether the norm on the queries, at the entrance, has weights.
        vision_norm: eps of a LayerNorm on the patches before anything else, where BLIP-2 norms its tower's output
            (``ln_vision``: 1e-5 in LAVIS and MiniGPT-4, 1e-6 in transformers); None for a tower that needs none.
        encoder_dim: width that the cross attention reads. Where it is not Dv, a linear map leads from one to the
            other: 1408 keeps BLIP-2's weights whole behind a CLIP tower.
        proj: the linear map to Dl; without it ``hidden_size`` must be Dl.
        frozen_qformer: queries, Q-Former and ``ln_vision`` stay as they are when ``tune`` trains the projector.

    >>> sizes = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
    >>> QFormer(8, 12, num_queries=4, **sizes)(torch.zeros(2, 16, 8)).shape
    torch.Size([2, 4, 12])
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        num_queries: int = 32,
        hidden_size: int = 768,
        num_hidden_layers: int = 12,
        num_attention_heads: int = 12,
        intermediate_size: int = 3072,
        cross_attention_frequency: int = 2,
        hidden_act: str = 'gelu',
        layer_norm_eps: float = 1e-12,
        dropout: float = 0.1,
        initializer_range: float = 0.02,
        query_norm: bool = True,
        vision_norm: float | None = None,
        encoder_dim: int | None = None,
        proj: bool = True,
        frozen_qformer: bool = False,
    ) -> None:
        super().__init__()
        encoder_dim = in_dim if encoder_dim is None else encoder_dim
        widths = {'hidden_size': hidden_size, 'intermediate_size': intermediate_size}
        layers = {
            'num_hidden_layers': num_hidden_layers,
            'num_attention_heads': num_attention_heads,
            'cross_attention_frequency': cross_attention_frequency,
        }
        numbers = {'layer_norm_eps': layer_norm_eps, 'initializer_range': initializer_range}
        own = {'in_dim': in_dim, 'out_dim': out_dim, 'num_queries': num_queries, 'encoder_dim': encoder_dim}
        check_counts('QFormer', **own, **widths, **layers)
        check_numbers('QFormer', least=0, vision_norm=vision_norm or 0, **numbers)
        if not proj and hidden_size != out_dim:
            raise ConfigError(
                f'QFormer: proj=False, but the Q-Former is {hidden_size} wide and the language model {out_dim}',
                expected='two equal widths',
                fix='leave proj=True',
            )
        if frozen_qformer and not proj and encoder_dim == in_dim:
            raise ConfigError(
                'QFormer: frozen_qformer=True without proj and encoder_dim, so nothing is left to train',
                fix="leave proj=True, or freeze the whole part with tune=dict(projector='frozen')",
            )
        self.in_dim, self.out_dim, self.num_queries, self.encoder_dim = in_dim, out_dim, num_queries, encoder_dim
        self.query_norm, self.vision_norm, self.frozen_qformer = query_norm, vision_norm, frozen_qformer
        self.in_proj = nn.Linear(in_dim, encoder_dim) if encoder_dim != in_dim else None
        self.ln_vision = nn.LayerNorm(encoder_dim, eps=vision_norm) if vision_norm is not None else None
        with refused_by('transformers', 'QFormer', "values that transformers' Blip2QFormerConfig takes"):
            config = Blip2QFormerConfig(
                **widths,
                **layers,
                **numbers,
                hidden_act=hidden_act,
                hidden_dropout_prob=dropout,
                attention_probs_dropout_prob=dropout,
                encoder_hidden_size=encoder_dim,
            )
            self.qformer = Blip2QFormerModel(config)
        # transformers starts the queries at zero, where all would stay alike forever; LAVIS starts them at random.
        self.query_tokens = nn.Parameter(torch.empty(1, num_queries, hidden_size).normal_(std=initializer_range))
        if not query_norm:
            self.qformer.layernorm = nn.LayerNorm(hidden_size, eps=layer_norm_eps, elementwise_affine=False)
        self.proj = nn.Linear(hidden_size, out_dim) if proj else None
        self.requires_grad_(True)

    def requires_grad_(self, requires_grad: bool = True) -> QFormer:
        """As torch's; ``frozen_qformer`` keeps the Q-Former out of it."""
        super().requires_grad_(requires_grad)
        if self.frozen_qformer:
            self.query_tokens.requires_grad_(False)
            for module in (self.qformer, self.ln_vision):
                if module is not None:
                    module.requires_grad_(False)
        return self

    def num_tokens(self, num_patches: int) -> int:
        """Q = ``num_queries``."""
        return self.num_queries

    def forward(self, x: Tensor) -> Tensor:
        """(N,P,Dv) -> (N,Q,Dl)."""
        for module in (self.in_proj, self.ln_vision):
            x = module(x) if module is not None else x
        # The model's own forward but for its casts: it takes the queries' norm to have weights.
        queries = self.qformer.dropout(self.qformer.layernorm(self.query_tokens.expand(len(x), -1, -1)))
        out = self.qformer.encoder(queries, encoder_hidden_states=x, query_length=self.num_queries).last_hidden_state
        return self.proj(out) if self.proj is not None else out
