"""CLIP, SigLIP and DINOv2: vision towers over transformers' own vision models.

Weights sit in ``tower`` under transformers' names (``vision.tower.encoder.layers.0...``). The output is
``hidden_states[select_layer]`` of the original: no final norm, and blocks above it do not run. Their weights and the
unused norms stay, so that a tower is written as it was read. Heads (SigLIP's pooling, CLIP's projection) are not built.
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from mmft.checks import check_counts
from mmft.errors import ConfigError
from mmft.models.vision.hf_tower import HFVisionTower
from mmft.registry import VISION_TOWERS

__all__ = ['CLIP', 'DINOv2', 'SigLIP']


@VISION_TOWERS.register_module()
class CLIP(HFVisionTower):
    """CLIP's vision transformer (arXiv:2103.00020); the defaults are CLIP-L/336, LLaVA-1.5's tower.

    Args: as ``HFVisionTower``; the last block but one is LLaVA's choice.

    >>> import torch
    >>> tower = CLIP(32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=56)
    >>> tower(torch.zeros(3, 3, 56, 56)).shape
    torch.Size([3, 16, 32])
    """

    model_type = 'clip_vision_model'

    def __init__(
        self,
        hidden_size: int = 1024,
        num_hidden_layers: int = 24,
        num_attention_heads: int = 16,
        intermediate_size: int = 4096,
        image_size: int = 336,
        patch_size: int = 14,
        select_layer: int = -2,
        select_feature: str = 'patch',
        gradient_checkpointing: bool = False,
        attn_implementation: str = 'sdpa',
        **config: Any,
    ) -> None:
        super().__init__(
            select_layer,
            select_feature,
            gradient_checkpointing,
            attn_implementation,
            hidden_size=hidden_size,
            num_hidden_layers=num_hidden_layers,
            num_attention_heads=num_attention_heads,
            intermediate_size=intermediate_size,
            image_size=image_size,
            patch_size=patch_size,
            **config,
        )
        self.intermediate_size = intermediate_size

    def embed(self, pixel_values: Tensor, interpolate: bool) -> Tensor:
        """(N,3,S,S) -> (N,1+P,Dv)."""
        return self.tower.pre_layrnorm(super().embed(pixel_values, interpolate))


@VISION_TOWERS.register_module()
class SigLIP(HFVisionTower):
    """SigLIP's vision transformer (arXiv:2303.15343); the defaults are so400m-patch14-384: 27 x 27 = 729 tokens.

    It has no class token: both of ``select_feature`` give all patches.

    Args: as ``HFVisionTower``, and
        drop_first: drop the first patch, as TinyLLaVA Factory's ``patch`` does with every tower (728 tokens): for
            checkpoints that were trained with it.

    >>> import torch
    >>> tower = SigLIP(32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=56)
    >>> tower(torch.zeros(3, 3, 56, 56)).shape
    torch.Size([3, 16, 32])
    """

    model_type = 'siglip_vision_model'
    prefix_tokens = 0
    fixed: ClassVar[dict[str, Any]] = {'vision_use_head': False}

    def __init__(
        self,
        hidden_size: int = 1152,
        num_hidden_layers: int = 27,
        num_attention_heads: int = 16,
        intermediate_size: int = 4304,
        image_size: int = 384,
        patch_size: int = 14,
        select_layer: int = -2,
        select_feature: str = 'patch',
        drop_first: bool = False,
        gradient_checkpointing: bool = False,
        attn_implementation: str = 'sdpa',
        **config: Any,
    ) -> None:
        super().__init__(
            select_layer,
            select_feature,
            gradient_checkpointing,
            attn_implementation,
            hidden_size=hidden_size,
            num_hidden_layers=num_hidden_layers,
            num_attention_heads=num_attention_heads,
            intermediate_size=intermediate_size,
            image_size=image_size,
            patch_size=patch_size,
            **config,
        )
        self.intermediate_size, self.drop_first = intermediate_size, drop_first

    @property
    def dropped_tokens(self) -> int:
        """1 with ``drop_first``, else 0."""
        return int(self.drop_first and self.select_feature == 'patch')


@VISION_TOWERS.register_module()
class DINOv2(HFVisionTower):
    """DINOv2 (arXiv:2304.07193); the defaults are the large form.

    Args: as ``HFVisionTower``; ``intermediate_size`` becomes transformers' whole-numbered ``mlp_ratio``.

    >>> import torch
    >>> tower = DINOv2(32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=56)
    >>> tower(torch.zeros(3, 3, 56, 56)).shape
    torch.Size([3, 16, 32])
    """

    model_type = 'dinov2'

    def __init__(
        self,
        hidden_size: int = 1024,
        num_hidden_layers: int = 24,
        num_attention_heads: int = 16,
        intermediate_size: int | None = None,
        image_size: int = 518,
        patch_size: int = 14,
        select_layer: int = -1,
        select_feature: str = 'patch',
        gradient_checkpointing: bool = False,
        attn_implementation: str = 'sdpa',
        mlp_ratio: int = 4,
        **config: Any,
    ) -> None:
        given = {} if intermediate_size is None else {'intermediate_size': intermediate_size}
        check_counts('DINOv2', hidden_size=hidden_size, mlp_ratio=mlp_ratio, **given)
        if intermediate_size is not None:
            mlp_ratio, rest = divmod(intermediate_size, hidden_size)
            if rest:
                raise ConfigError(
                    f'DINOv2: intermediate_size {intermediate_size} with hidden_size {hidden_size}',
                    expected='a multiple of hidden_size',
                    fix='transformers knows a whole mlp_ratio only; the published models have 4',
                )
        super().__init__(
            select_layer,
            select_feature,
            gradient_checkpointing,
            attn_implementation,
            hidden_size=hidden_size,
            num_hidden_layers=num_hidden_layers,
            num_attention_heads=num_attention_heads,
            mlp_ratio=mlp_ratio,
            image_size=image_size,
            patch_size=patch_size,
            **config,
        )
        self.intermediate_size = hidden_size * mlp_ratio

    @property
    def layers(self) -> nn.ModuleList:
        """The transformer blocks."""
        return self.tower.encoder.layer

    @property
    def final_norm(self) -> nn.Module:
        """The norm behind the last block."""
        return self.tower.layernorm

    @property
    def idle_layers(self) -> nn.ModuleList:
        """Blocks above ``select_layer``, the final norm, and the mask token, which only pre-training uses."""
        mask = self.tower.embeddings.mask_token
        return nn.ModuleList([*super().idle_layers, nn.ParameterList([] if mask is None else [mask])])

    def embed(self, pixel_values: Tensor, interpolate: bool) -> Tensor:
        """(N,3,S,S) -> (N,1+P,Dv); transformers interpolates the positions by itself."""
        return self.tower.embeddings(pixel_values)
