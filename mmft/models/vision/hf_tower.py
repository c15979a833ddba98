"""``HFVisionTower``: a transformers vision model as the tower of a ``VLM``; ``hf.py`` has CLIP, SigLIP and DINOv2."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel

from mmft.checks import check_counts, is_whole
from mmft.errors import ConfigError, ShapeError
from mmft.models.base import VisionTower
from mmft.models.refusals import check_attention, refused_by
from mmft.words import count_of

__all__ = ['HFVisionTower', 'check_feature', 'check_layer']

FEATURES = ('patch', 'cls_patch')
_COUNTS = ('hidden_size', 'intermediate_size', 'num_hidden_layers', 'num_attention_heads', 'image_size', 'patch_size')


def check_feature(name: str, select_feature: str) -> None:
    """Raise ``ConfigError`` unless ``select_feature`` is one of LLaVA's two words."""
    if select_feature not in FEATURES:
        raise ConfigError(f'{name}: select_feature {select_feature!r}', expected=f'one of {FEATURES}')


def check_layer(name: str, select_layer: int, depth: int) -> None:
    """Raise ``ConfigError`` unless ``select_layer`` names a hidden state of a tower of ``depth`` blocks."""
    if not is_whole(select_layer) or not -depth - 1 <= select_layer <= depth:
        raise ConfigError(
            f'{name}: select_layer {select_layer!r} with {count_of(depth, "block")}',
            expected=f'a whole number, {-depth - 1} to {depth} (0 is the embeddings, -1 the last block)',
        )


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
        check_attention(name, attn_implementation)
        check_counts(name, **{key: config[key] for key in _COUNTS if key in config})
        with refused_by('transformers', name, f"the names of transformers' {self.model_type!r} config"):
            hf_config = AutoConfig.for_model(self.model_type, **{**config, **self.fixed})
        _check_sizes(name, hf_config)
        check_layer(name, select_layer, hf_config.num_hidden_layers)
        known = "a hidden_act and attn_implementation of transformers, such as 'gelu' and 'sdpa'"
        with refused_by('transformers', name, known):
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
        """Recompute position indices, which no checkpoint holds, after a build on the meta device."""
        embeddings = self.tower.embeddings
        indices = getattr(embeddings, 'position_ids', None)
        if indices is not None and indices.is_meta:
            embeddings.position_ids = torch.arange(indices.shape[-1], device='cpu').expand(1, -1)


def _check_sizes(name: str, config: PreTrainedConfig) -> None:
    """Raise ``ConfigError`` for sizes that do not go together."""
    problems = []
    if config.hidden_size % config.num_attention_heads:
        problems.append(
            f'hidden_size {config.hidden_size} is not divisible by num_attention_heads {config.num_attention_heads}'
        )
    if config.num_channels != 3:
        problems.append(f'num_channels {config.num_channels}, but tiles have 3')
    if config.image_size < config.patch_size:
        problems.append(f'image_size {config.image_size} is less than one patch of {config.patch_size}')
    if problems:
        raise ConfigError.gather([f'{name}: {problem}' for problem in problems])
