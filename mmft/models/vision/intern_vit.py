"""InternViT, the vision tower of InternVL2, in its 300M and 6B forms.

Parameter names are those of OpenGVLab's ``modeling_intern_vit.py``, so its checkpoints load by name. There is no final
norm: ``select_layer=-1`` and an inner layer give the same kind of tensor.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmft.checks import check_counts, check_numbers, check_rates
from mmft.errors import ConfigError, ShapeError
from mmft.models.base import VisionTower
from mmft.models.vision.hf_tower import check_layer
from mmft.registry import VISION_TOWERS

__all__ = ['InternViT']


class RMSNorm(nn.Module):
    """Root-mean-square norm (Zhang and Sennrich 2019) computed in float32, weight applied in the input's dtype."""

    def __init__(self, hidden_size: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden_size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """(..., Dv) -> (..., Dv)."""
        return self.weight * F.rms_norm(x.float(), x.shape[-1:], eps=self.eps).to(x.dtype)


_NORMS = {'layer_norm': nn.LayerNorm, 'rms_norm': RMSNorm}
_ACTIVATIONS = {'gelu': nn.GELU, 'relu': nn.ReLU, 'silu': nn.SiLU}


class Attention(nn.Module):
    """Multi-head self-attention over all patches of one tile.

    ``q_norm`` and ``k_norm`` work on the whole width, all heads together, and are RMS norms also where the blocks use
    LayerNorm.
    """

    def __init__(self, hidden_size: int, num_heads: int, qkv_bias: bool, qk_norm: bool, eps: float, dropout: float):
        super().__init__()
        self.num_heads, self.dropout = num_heads, dropout
        self.qkv = nn.Linear(hidden_size, 3 * hidden_size, bias=qkv_bias)
        self.proj = nn.Linear(hidden_size, hidden_size)
        self.proj_drop = nn.Dropout(dropout)
        self.q_norm = RMSNorm(hidden_size, eps) if qk_norm else None
        self.k_norm = RMSNorm(hidden_size, eps) if qk_norm else None

    def forward(self, x: Tensor) -> Tensor:
        """(N,1+P,Dv) -> (N,1+P,Dv)."""
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        if self.q_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k, v = (t.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for t in (q, k, v))
        out = F.scaled_dot_product_attention(q, k, v, dropout_p=self.dropout if self.training else 0.0)
        return self.proj_drop(self.proj(out.transpose(1, 2).flatten(2)))


class MLP(nn.Module):
    """Two linear layers with an activation between."""

    def __init__(self, hidden_size: int, intermediate_size: int, hidden_act: str) -> None:
        super().__init__()
        self.act = _ACTIVATIONS[hidden_act]()
        self.fc1 = nn.Linear(hidden_size, intermediate_size)
        self.fc2 = nn.Linear(intermediate_size, hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """(..., Dv) -> (..., Dv)."""
        return self.fc2(self.act(self.fc1(x)))


class DropPath(nn.Module):
    """Drops a whole residual branch per tile with probability ``rate`` (stochastic depth, Huang et al. 2016)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """(N,...) -> (N,...)."""
        if not self.training or self.rate == 0.0:
            return x
        keep = 1.0 - self.rate
        mask = x.new_empty((x.shape[0],) + (1,) * (x.dim() - 1)).bernoulli_(keep)
        return x * (mask / keep)


class Block(nn.Module):
    """Pre-norm transformer block with layer scale: the scale multiplies before drop path."""

    def __init__(
        self,
        attn: Attention,
        mlp: MLP,
        norm: type[nn.Module],
        hidden_size: int,
        eps: float,
        factor: float,
        drop_path: float,
    ) -> None:
        super().__init__()
        self.attn, self.mlp = attn, mlp
        self.norm1, self.norm2 = norm(hidden_size, eps=eps), norm(hidden_size, eps=eps)
        self.ls1 = nn.Parameter(factor * torch.ones(hidden_size))
        self.ls2 = nn.Parameter(factor * torch.ones(hidden_size))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """(N,1+P,Dv) -> (N,1+P,Dv)."""
        x = x + self.drop_path(self.attn(self.norm1(x)) * self.ls1)
        return x + self.drop_path(self.mlp(self.norm2(x)) * self.ls2)


class Embeddings(nn.Module):
    """Patch convolution, class token and a learned position table that is resized to the tile at hand."""

    def __init__(self, hidden_size: int, image_size: int, patch_size: int) -> None:
        super().__init__()
        self.grid = image_size // patch_size
        self.class_embedding = nn.Parameter(torch.randn(1, 1, hidden_size))
        self.patch_embedding = nn.Conv2d(3, hidden_size, kernel_size=patch_size, stride=patch_size)
        self.position_embedding = nn.Parameter(torch.randn(1, self.grid**2 + 1, hidden_size))

    def positions(self, height: int, width: int) -> Tensor:
        """(1,1+height*width,Dv): the table itself where the grid is its own, else its bicubic interpolation."""
        table = self.position_embedding
        if (height, width) == (self.grid, self.grid):
            return table
        cls, patches = table[:, :1], table[:, 1:]
        patches = patches.float().unflatten(1, (self.grid, self.grid)).permute(0, 3, 1, 2)
        patches = F.interpolate(patches, size=(height, width), mode='bicubic', align_corners=False)
        return torch.cat([cls, patches.flatten(2).transpose(1, 2).to(table.dtype)], dim=1)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """(N,3,H,W) -> (N,1+P,Dv)."""
        patches = self.patch_embedding(pixel_values.to(self.patch_embedding.weight.dtype))
        height, width = patches.shape[-2:]
        x = patches.flatten(2).transpose(1, 2)
        x = torch.cat([self.class_embedding.to(x.dtype).expand(len(x), -1, -1), x], dim=1)
        return x + self.positions(height, width).to(x.dtype)


class Encoder(nn.Module):
    """The stack of blocks (its own module because checkpoints name it)."""

    def __init__(self, layers: nn.ModuleList) -> None:
        super().__init__()
        self.layers = layers


@VISION_TOWERS.register_module()
class InternViT(VisionTower):
    """InternViT (OpenGVLab, arXiv:2312.14238).

    Args:
        hidden_size: Dv; 1024 in the 300M form, 3200 in the 6B form.
        image_size: tile side S in px of the position table; other sides interpolate it.
        qk_normalization: RMS norm on queries and keys (6B form).
        norm_type: ``layer_norm`` (300M) or ``rms_norm`` (6B).
        drop_path_rate: of the last block; rises linearly from 0 at the first.
        initializer_factor: initial value of the layer scales.
        select_layer: which hidden state is the output; -1 is the last block's.
        gradient_checkpointing: recompute each block in the backward pass.

    >>> import torch
    >>> vit = InternViT(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=56)
    >>> vit(torch.zeros(3, 3, 56, 56)).shape
    torch.Size([3, 16, 32])
    """

    def __init__(
        self,
        hidden_size: int = 1024,
        num_hidden_layers: int = 24,
        num_attention_heads: int = 16,
        intermediate_size: int = 4096,
        image_size: int = 448,
        patch_size: int = 14,
        qkv_bias: bool = True,
        qk_normalization: bool = False,
        norm_type: str = 'layer_norm',
        layer_norm_eps: float = 1e-6,
        hidden_act: str = 'gelu',
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        drop_path_rate: float = 0.0,
        initializer_factor: float = 1.0,
        initializer_range: float = 0.02,
        select_layer: int = -1,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        check_counts(
            'InternViT',
            hidden_size=hidden_size,
            num_hidden_layers=num_hidden_layers,
            num_attention_heads=num_attention_heads,
            intermediate_size=intermediate_size,
            image_size=image_size,
            patch_size=patch_size,
        )
        check_rates('InternViT', dropout=dropout, attention_dropout=attention_dropout, drop_path_rate=drop_path_rate)
        check_numbers('InternViT', least=0, layer_norm_eps=layer_norm_eps, initializer_range=initializer_range)
        self._check(hidden_size, num_attention_heads, norm_type, hidden_act, image_size, patch_size)
        check_layer('InternViT', select_layer, num_hidden_layers)
        self.hidden_size, self.image_size, self.patch_size = hidden_size, image_size, patch_size
        self.num_attention_heads, self.intermediate_size = num_attention_heads, intermediate_size
        self.qkv_bias, self.qk_normalization, self.norm_type = qkv_bias, qk_normalization, norm_type
        self.layer_norm_eps, self.hidden_act = layer_norm_eps, hidden_act
        self.dropout, self.attention_dropout, self.drop_path_rate = dropout, attention_dropout, drop_path_rate
        self.initializer_factor, self.initializer_range = initializer_factor, initializer_range
        self.select_layer, self.gradient_checkpointing = select_layer, gradient_checkpointing
        self.embeddings = Embeddings(hidden_size, image_size, patch_size)
        # Plain arithmetic, not torch.linspace: under a meta device a tensor has no values to read.
        rates = [drop_path_rate * i / max(1, num_hidden_layers - 1) for i in range(num_hidden_layers)]
        self.encoder = Encoder(
            nn.ModuleList(
                Block(
                    Attention(hidden_size, num_attention_heads, qkv_bias, qk_normalization, layer_norm_eps, dropout),
                    MLP(hidden_size, intermediate_size, hidden_act),
                    _NORMS[norm_type],
                    hidden_size,
                    layer_norm_eps,
                    initializer_factor,
                    rate,
                )
                for rate in rates
            )
        )
        for block in self.encoder.layers:
            block.attn.dropout = attention_dropout
        self.apply(self._init)

    @staticmethod
    def _check(hidden_size: int, heads: int, norm_type: str, act: str, image_size: int, patch_size: int) -> None:
        if hidden_size % heads:
            raise ConfigError(
                f'InternViT: hidden_size {hidden_size} is not divisible by num_attention_heads {heads}',
                fix='change one of the two',
            )
        if norm_type not in _NORMS:
            raise ConfigError(f'InternViT: norm_type {norm_type!r}', expected=f'one of {sorted(_NORMS)}')
        if act not in _ACTIVATIONS:
            raise ConfigError(f'InternViT: hidden_act {act!r}', expected=f'one of {sorted(_ACTIVATIONS)}')
        if image_size < patch_size:
            raise ConfigError(f'InternViT: image_size {image_size} is less than one patch of {patch_size}')

    def _init(self, module: nn.Module) -> None:
        # The original draws class and position embeddings from N(0, 1) and never trains from there: noise of that size
        # drowns the patches, so a tower that starts from scratch would learn little.
        if isinstance(module, Embeddings):
            nn.init.normal_(module.class_embedding, std=self.initializer_range)
            nn.init.normal_(module.position_embedding, std=self.initializer_range)
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            nn.init.normal_(module.weight, std=self.initializer_range)
            if module.bias is not None:
                nn.init.zeros_(module.bias)

    @property
    def layers(self) -> nn.ModuleList:
        """The transformer blocks."""
        return self.encoder.layers

    @property
    def idle_layers(self) -> nn.ModuleList:
        """Those above ``select_layer``."""
        return self.layers[self.select_layer % (len(self.layers) + 1) :]

    def num_patches(self, image_size: int) -> int:
        """P of a tile of side ``image_size`` px."""
        return (image_size // self.patch_size) ** 2

    def hidden_states(self, pixel_values: Tensor, depth: int) -> Tensor:
        """(N,3,S,S) -> (N,1+P,Dv) after ``depth`` blocks, class token first."""
        if pixel_values.dim() != 4 or pixel_values.shape[1] != 3:
            raise ShapeError(f'pixel_values of shape {tuple(pixel_values.shape)}', expected='(N,3,S,S)')
        x = self.embeddings(pixel_values)
        for block in self.layers[:depth]:
            if self.gradient_checkpointing and self.training and torch.is_grad_enabled():
                x = checkpoint(block, x, use_reentrant=False)
            else:
                x = block(x)
        return x

    def forward(self, pixel_values: Tensor) -> Tensor:
        """(N,3,S,S) normalised -> (N,P,Dv), the class token dropped. Blocks above ``select_layer`` do not run."""
        count = len(self.layers) + 1
        return self.hidden_states(pixel_values, self.select_layer % count)[:, 1:]
