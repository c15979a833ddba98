"""CLIP, SigLIP and DINOv2: vision towers over transformers' own vision models.

Weights sit in ``tower`` under transformers' names (``vision.tower.encoder.layers.0...``). What is given out is
``hidden_states[select_layer]`` of the original: no final norm, and blocks above it do not run. Their weights and the
unused norms stay, so that a tower is written as it was read. Heads (SigLIP's pooling, CLIP's projection) are not built.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoConfig, AutoModel, PreTrainedModel

from mmft.errors import ConfigError, ShapeError
from mmft.models.base import VisionTower
from mmft.registry import VISION_TOWERS

__all__ = ['CLIP', 'DINOv2', 'HFVisionTower', 'SigLIP', 'check_feature']

FEATURES = ('patch', 'cls_patch')


def check_feature(name: str, select_feature: str) -> None:
    """Raise ``ConfigError`` unless ``select_feature`` is one of LLaVA's two words."""
    if select_feature not in FEATURES:
        raise ConfigError(f'{name}: select_feature {select_feature!r}', expected=f'one of {FEATURES}')


class HFVisionTower(VisionTower):
    """A transformers vision model as the tower of a ``VLM``.

    Args:
        select_layer: index into the original's ``hidden_states``; 0 is the embeddings, -1 the last block's output.
        select_feature: ``patch`` drops the class token, ``cls_patch`` keeps it in front.
        gradient_checkpointing: recompute each block in the backward pass.
        attn_implementation: ``sdpa``, ``eager``, ``flash_attention_2``... as transformers names them.
        config: transformers' own config names.

    Attributes:
        tower: the transformers model; ``tower.config`` is its config.
    """

    model_type: str
    prefix_tokens = 1
    """Tokens in front of the patches: the class token."""
    fixed: ClassVar[dict[str, Any]] = {}
    """Settings that this tower decides, whatever a config says."""

    def __init__(
        self,
        select_layer: int,
        select_feature: str,
        gradient_checkpointing: bool,
        attn_implementation: str,
        **config: Any,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        check_feature(name, select_feature)
        known = {*AutoConfig.for_model(self.model_type).to_dict()} - {'model_type', 'architectures'}
        if unknown := sorted(set(config) - known):
            raise ConfigError(
                f'{name}: no setting is named {unknown}',
                expected=f"the names of transformers' {self.model_type!r} config",
                fix='correct the config',
            )
        try:
            hf_config = AutoConfig.for_model(self.model_type, **{**config, **self.fixed})
        except (TypeError, ValueError, StrictDataclassError) as error:
            raise ConfigError(
                f'{name}: transformers refuses this config: {error}',
                expected=f"the names of transformers' {self.model_type!r} config",
            ) from error
        if hf_config.hidden_size % hf_config.num_attention_heads:
            raise ConfigError(
                f'{name}: hidden_size {hf_config.hidden_size} is not divisible by num_attention_heads '
                f'{hf_config.num_attention_heads}',
                fix='change one of the two',
            )
        depth = hf_config.num_hidden_layers
        if not -depth - 1 <= select_layer <= depth:
            raise ConfigError(
                f'{name}: select_layer {select_layer} with {depth} blocks',
                expected=f'{-depth - 1} to {depth} (0 is the embeddings, -1 the last block)',
            )
        self.tower: PreTrainedModel = AutoModel.from_config(hf_config, attn_implementation=attn_implementation)
        self.hidden_size, self.image_size = hf_config.hidden_size, hf_config.image_size
        self.patch_size = hf_config.patch_size
        self.select_layer, self.select_feature = select_layer, select_feature
        self.gradient_checkpointing = gradient_checkpointing

    @property
    def layers(self) -> nn.ModuleList:
        """The transformer blocks."""
        return self.tower.encoder.layers

    @property
    def final_norm(self) -> nn.Module:
        """The norm behind the last block, which the features never pass."""
        return self.tower.post_layernorm

    @property
    def idle_layers(self) -> nn.ModuleList:
        """Blocks above ``select_layer``, and the final norm."""
        return nn.ModuleList([*self.layers[self.select_layer % (len(self.layers) + 1) :], self.final_norm])

    @property
    def dropped_tokens(self) -> int:
        """How many tokens ``forward`` drops in front."""
        return self.prefix_tokens if self.select_feature == 'patch' else 0

    def num_patches(self, image_size: int) -> int:
        """P of a tile of side ``image_size`` px; a class token that is kept counts."""
        return (image_size // self.patch_size) ** 2 + self.prefix_tokens - self.dropped_tokens

    def embed(self, pixel_values: Tensor, interpolate: bool) -> Tensor:
        """(N,3,S,S) -> (N,prefix+P,Dv): what the first block reads. ``interpolate``: S is not the tower's own side."""
        return self.tower.embeddings(pixel_values, interpolate_pos_encoding=interpolate)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """(N,3,S,S) normalised -> (N,P,Dv). Blocks above ``select_layer`` do not run."""
        if pixel_values.dim() != 4 or pixel_values.shape[1] != 3:
            raise ShapeError(f'pixel_values of shape {tuple(pixel_values.shape)}', expected='(N,3,S,S)')
        x = self.embed(pixel_values, pixel_values.shape[-2:] != (self.image_size, self.image_size))
        for block in self.layers[: self.select_layer % (len(self.layers) + 1)]:
            if self.gradient_checkpointing and self.training and torch.is_grad_enabled():
                x = checkpoint(block, x, None, use_reentrant=False)
            else:
                x = block(x, None)
        return x[:, self.dropped_tokens :]

    def reset_buffers(self) -> None:
        """Position indices, which are in no checkpoint, anew after a build on the meta device."""
        embeddings = self.tower.embeddings
        indices = getattr(embeddings, 'position_ids', None)
        if indices is not None and indices.is_meta:
            embeddings.position_ids = torch.arange(indices.shape[-1], device='cpu').expand(1, -1)


@VISION_TOWERS.register_module()
class CLIP(HFVisionTower):
    """CLIP's vision transformer (arXiv:2103.00020); the defaults are CLIP-L/336, LLaVA-1.5's tower.

    Args: as ``HFVisionTower``; the last block but one is LLaVA's choice.

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
        """(N,3,S,S) -> (N,1+P,Dv); transformers interpolates the positions unasked."""
        return self.tower.embeddings(pixel_values)
