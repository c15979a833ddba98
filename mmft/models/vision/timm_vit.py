"""TimmViT: any plain vision transformer of timm (``vit_*``, ``deit*`` and what else is timm's ``VisionTransformer``).

Weights sit in ``tower`` under timm's names. As everywhere, the features are those of a block, before any final norm;
classifier and attention pooling are not built. Only this file and ``timm_backbone.py`` import timm, and only when a
tower is built.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from mmft.checks import check_counts, is_whole
from mmft.errors import ConfigError, ShapeError
from mmft.models.base import VisionTower
from mmft.models.vision.hf_tower import check_feature
from mmft.registry import VISION_TOWERS
from mmft.words import count_of, near_names, suggested

__all__ = ['TimmViT', 'check_timm_name']

_COUNTS = ('patch_size', 'embed_dim', 'depth', 'num_heads')


@VISION_TOWERS.register_module()
class TimmViT(VisionTower):
    """A timm ``VisionTransformer`` by its timm name, randomly initialised: nothing is downloaded.

    Args:
        model_name: as ``timm.create_model`` takes it.
        image_size: tile side S in px of the position table; None takes the model's own. Other sides resize the table.
        select_layer: the block whose output is taken: 1 is the first block's, -1 the last one's.
        select_feature: ``patch`` drops class and register tokens, ``cls_patch`` keeps them in front.
        gradient_checkpointing: recompute each block in the backward pass.
        model: further arguments of timm's ``VisionTransformer``.

    >>> import torch
    >>> tower = TimmViT('vit_tiny_patch16_224', image_size=64, embed_dim=32, depth=2, num_heads=2)
    >>> tower(torch.zeros(3, 3, 64, 64)).shape
    torch.Size([3, 16, 32])
    """

    def __init__(
        self,
        model_name: str,
        image_size: int | None = None,
        select_layer: int = -1,
        select_feature: str = 'patch',
        gradient_checkpointing: bool = False,
        **model: Any,
    ) -> None:
        super().__init__()
        check_feature('TimmViT', select_feature)
        self.tower = _create(model_name, image_size, model)
        count = len(self.tower.blocks)
        if not is_whole(select_layer) or select_layer == 0 or not -count <= select_layer <= count:
            raise ConfigError(
                f'TimmViT: select_layer {select_layer!r}; {model_name} has {count_of(count, "block")}',
                expected=f'a whole number, {-count} to -1 or 1 to {count}',
            )
        embed, mlp = self.tower.patch_embed, getattr(self.tower.blocks[0], 'mlp', None)
        self.model_name, self.hidden_size = model_name, self.tower.embed_dim
        self.image_size, self.patch_size = embed.img_size[0], embed.feat_ratio()
        self.intermediate_size = mlp.fc1.out_features if hasattr(mlp, 'fc1') else 4 * self.hidden_size
        self.depth = select_layer % (count + 1)
        self.select_layer, self.select_feature = select_layer, select_feature
        self.gradient_checkpointing = gradient_checkpointing

    @property
    def layers(self) -> nn.Sequential:
        """The transformer blocks."""
        return self.tower.blocks

    @property
    def idle_layers(self) -> nn.ModuleList:
        """Blocks above ``select_layer``, and the final norm where there is one."""
        return nn.ModuleList([*self.layers[self.depth :], self.tower.norm, self.tower.fc_norm])

    def num_patches(self, image_size: int) -> int:
        """P of a tile of side ``image_size`` px; class and register tokens count where they are kept.

        Raises:
            ShapeError: the side is neither the tower's own nor a multiple of the patch.
        """
        if image_size != self.image_size and (image_size % self.patch_size or not self.tower.dynamic_img_size):
            raise ShapeError(
                f'a tile of {image_size} px for {self.model_name}',
                expected=f'{self.image_size} px'
                + (f' or a multiple of {self.patch_size}' if self.tower.dynamic_img_size else ''),
                fix='set the tile size, or image_size of the tower',
            )
        prefix = self.tower.num_prefix_tokens if self.select_feature == 'cls_patch' else 0
        return (image_size // self.patch_size) ** 2 + prefix

    def forward(self, pixel_values: Tensor) -> Tensor:
        """(N,3,S,S) normalised -> (N,P,Dv). Blocks above ``select_layer`` do not run."""
        if pixel_values.dim() != 4 or pixel_values.shape[1] != 3:
            raise ShapeError(f'pixel_values of shape {tuple(pixel_values.shape)}', expected='(N,3,S,S)')
        self.num_patches(pixel_values.shape[-1])
        self.tower.set_grad_checkpointing(self.gradient_checkpointing and self.training and torch.is_grad_enabled())
        (features,) = self.tower.forward_intermediates(
            pixel_values.to(self.tower.patch_embed.proj.weight.dtype),
            indices=[self.depth - 1],
            return_prefix_tokens=self.select_feature == 'cls_patch',
            stop_early=True,
            output_fmt='NLC',
            intermediates_only=True,
        )
        if isinstance(features, tuple):
            patches, prefix = features
            return torch.cat([prefix, patches], dim=1)
        return features


def check_timm_name(kind: str, model_name: Any, options: dict[str, Any], family: str) -> None:
    """Raise ``ConfigError`` unless timm has a model of this name, and ``options`` do not ask for its weights.

    Args:
        kind: of the tower, for the message.
        family: what it takes, as ``timm.list_models`` finds it.
    """
    import timm

    if 'pretrained' in options:
        raise ConfigError(
            f'{kind}: pretrained = {options["pretrained"]!r}, but nothing is downloaded while a model is built',
            fix="remove it; weights come from a directory: pretrained=dict(vision='...') beside `model`",
        )
    if not isinstance(model_name, str):
        raise ConfigError(f'{kind}: model_name {model_name!r}', expected=f'a name, one of {family}')
    if not timm.is_model(model_name):
        raise ConfigError(
            f'{kind}: timm {timm.__version__} has no model named {model_name!r}',
            expected=f'one of {family}',
            fix=suggested(near_names(model_name, timm.list_models(), 3), 'correct model_name'),
        )


def _create(model_name: str, image_size: int | None, options: dict[str, Any]) -> nn.Module:
    import timm
    from timm.models.vision_transformer import VisionTransformer

    check_timm_name('TimmViT', model_name, options, "timm.list_models('vit*')")
    # Not those of timm.create_model, which reads files and downloads: a model directory may name them.
    if unknown := sorted(set(options) - set(inspect.signature(VisionTransformer).parameters)):
        raise ConfigError(
            f'TimmViT: no setting is named {unknown}', expected="arguments of timm's VisionTransformer", fix='remove it'
        )
    counts = {} if image_size is None else {'image_size': image_size}
    check_counts('TimmViT', **counts, **{key: options[key] for key in _COUNTS if key in options})
    size = {} if image_size is None else {'img_size': image_size}
    # The size is free where the patches tile it exactly; 384 px in patches of 14 is not (timm cuts 6 px off).
    for dynamic in (True, False):
        try:
            model = timm.create_model(model_name, num_classes=0, dynamic_img_size=dynamic, **size, **options)
        except (ArithmeticError, AssertionError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise ConfigError(
                f'TimmViT: timm refuses {model_name} with { ({**size, **options}) }: {error}',
                expected="a VisionTransformer of timm and its constructor's arguments",
                fix="type='TimmBackbone' takes models with a feature map, such as ConvNeXt, ResNet and Swin",
            ) from error
        if not isinstance(model, VisionTransformer):
            raise ConfigError(
                f'TimmViT: {model_name} is a {type(model).__name__}',
                expected='a VisionTransformer of timm',
                fix="type='TimmBackbone' takes what has a feature map",
            )
        if model.patch_embed.img_size[0] % model.patch_embed.feat_ratio() == 0:
            break
    model.reset_classifier(0, '')
    return model
