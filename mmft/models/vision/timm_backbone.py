"""TimmBackbone: any backbone of timm with a feature map (ConvNeXt, EfficientNet, ResNet, Swin, MaxViT, ...).

The patches are the points of its last map, as timm's ``forward_features`` gives it. Weights sit in ``tower`` under
timm's names; the classifier is not built. Shapes come from timm's model on the meta device, where nothing is computed.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Collection, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from mmft.checks import check_counts
from mmft.errors import ConfigError, ShapeError, first_line
from mmft.models.base import VisionTower
from mmft.models.vision.timm_vit import check_timm_name
from mmft.registry import VISION_TOWERS

__all__ = ['TimmBackbone', 'classifier_names', 'is_backbone', 'timm_pixels']


@VISION_TOWERS.register_module()
class TimmBackbone(VisionTower):
    """The last feature map of a timm model by its timm name, randomly initialised: nothing is downloaded.

    Batch norms keep their running statistics while they are frozen: what is frozen in a ``VLM`` stays in eval mode.

    Args:
        model_name: as ``timm.create_model`` takes it; with a tag (``convnext_base.clip_laion2b``) the pixels are
            normalised as that tag's weights were trained.
        image_size: tile side S in px; None takes the model's own.
        gradient_checkpointing: recompute the blocks in the backward pass, as timm does it. Batch norms that train count
            a batch twice then.
        model: further arguments of the timm class, such as ``drop_path_rate``.

    Attributes:
        hidden_size: Dv, the channels of the map.

    >>> import torch
    >>> tower = TimmBackbone('test_efficientnet', image_size=64).eval()
    >>> tower(torch.zeros(3, 3, 64, 64)).shape
    torch.Size([3, 4, 256])
    """

    def __init__(
        self, model_name: str, image_size: int | None = None, gradient_checkpointing: bool = False, **model: Any
    ) -> None:
        super().__init__()
        check_timm_name('TimmBackbone', model_name, model, 'timm.list_models()')
        check_counts('TimmBackbone', **({} if image_size is None else {'image_size': image_size}))
        with torch.device('meta'):
            probe = _create(model_name, {})
        own, settings = inspect.signature(type(probe)).parameters, probe.default_cfg
        # Not those of timm.create_model, which reads files and downloads: a model directory may name them.
        if unknown := sorted(set(model) - {*own} | {'num_classes', 'in_chans'} & set(model)):
            raise ConfigError(
                f'TimmBackbone: no setting is named {unknown}',
                expected=f"arguments of timm's {type(probe).__name__}",
                fix='remove it',
            )
        self.model_name, self.image_size = model_name, image_size or settings['input_size'][-1]
        self.pixel_mean, self.pixel_std = tuple(settings['mean']), tuple(settings['std'])
        self._options = {**model, **({'img_size': self.image_size} if 'img_size' in own else {})}
        with torch.device('meta'):
            probe = _create(model_name, self._options)
        features = _map_of(probe, model_name, self.image_size)
        self._channels_last = getattr(probe, 'output_fmt', 'NCHW') == 'NHWC'
        self.hidden_size = features.shape[-1 if self._channels_last else 1]
        self._patches = {self.image_size: features[0].numel() // self.hidden_size}
        self._idle, self._stages = _pieces(probe, features)
        self._recomputes = _can_recompute(probe)
        if gradient_checkpointing and not self._recomputes:
            raise ConfigError(f'TimmBackbone: timm cannot recompute {model_name}', fix='remove gradient_checkpointing')
        self.gradient_checkpointing = gradient_checkpointing
        self.tower = _create(model_name, self._options)

    @property
    def layers(self) -> nn.ModuleList:
        """The stages of the network as timm groups its parameters, without the stem; all as one where it does not."""
        return nn.ModuleList(nn.ModuleList(map(self.tower.get_submodule, names)) for names in self._stages)

    @property
    def idle_layers(self) -> nn.ModuleList:
        """What lies between the map and the classifier: norms and convolutions of the head."""
        return nn.ModuleList(map(self.tower.get_submodule, self._idle))

    def num_patches(self, image_size: int) -> int:
        """P of a tile of side ``image_size`` px: the points of its map.

        Raises:
            ShapeError: timm's model does not take this side.
        """
        if image_size not in self._patches:
            with torch.device('meta'):
                probe = _create(self.model_name, self._options)
            features = _map_of(probe, self.model_name, image_size)
            self._patches[image_size] = features[0].numel() // self.hidden_size
        return self._patches[image_size]

    def forward(self, pixel_values: Tensor) -> Tensor:
        """(N,3,S,S) normalised -> (N,P,Dv), row after row of the map."""
        if pixel_values.dim() != 4 or pixel_values.shape[1] != 3:
            raise ShapeError(f'pixel_values of shape {tuple(pixel_values.shape)}', expected='(N,3,S,S)')
        self.num_patches(pixel_values.shape[-1])
        if self._recomputes:
            self.tower.set_grad_checkpointing(self.gradient_checkpointing and self.training and torch.is_grad_enabled())
        features = self.tower.forward_features(pixel_values.to(next(self.tower.parameters()).dtype))
        return features.flatten(1, 2) if self._channels_last else features.flatten(2).transpose(1, 2)

    def reset_buffers(self) -> None:
        """Recompute tables of relative positions, window masks and so on, after a build on the meta device."""
        absent = [name for name, buffer in self.tower.named_buffers() if buffer.is_meta]
        if absent:
            fresh = _create(self.model_name, self._options)
            for name in absent:
                owner, _, leaf = name.rpartition('.')
                setattr(self.tower.get_submodule(owner), leaf, fresh.get_buffer(name))


def is_backbone(model_name: str) -> bool:
    """Whether ``TimmBackbone``, and not ``TimmViT``, takes the timm model of this name; False if there is none."""
    import timm
    from timm.models.vision_transformer import VisionTransformer

    if not timm.is_model(model_name):
        return False
    with torch.device('meta'):
        return not isinstance(_create(model_name, {}), VisionTransformer)


def classifier_names(model_name: str) -> list[str]:
    """Names of the tensors that published weights of a timm model hold and the tower does not."""
    import timm

    with torch.device('meta'):
        return sorted({*timm.create_model(model_name).state_dict()} - {*_create(model_name, {}).state_dict()})


def timm_pixels(model_name: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation per channel with which a timm model was trained; empty where timm does not know the name."""
    import timm

    known = timm.get_pretrained_cfg(model_name) if isinstance(model_name, str) and timm.is_model(model_name) else None
    return (tuple(known.mean), tuple(known.std)) if known is not None else ((), ())


def _create(model_name: str, options: dict[str, Any]) -> nn.Module:
    """timm's model without its classifier."""
    import timm

    try:
        return timm.create_model(model_name, num_classes=0, **options)
    except Exception as error:  # of a bad option it may be anything
        raise ConfigError(
            f'TimmBackbone: timm refuses {model_name} with {options}: {first_line(error)}',
            expected="arguments of this model's class in timm",
        ) from error


def _map_of(probe: nn.Module, model_name: str, side: int) -> Tensor:
    """The map of a tile of ``side`` px on the meta device."""
    try:
        with torch.enable_grad():
            features = probe.eval().forward_features(torch.empty(1, 3, side, side, device='meta'))
    except Exception as error:  # of a side that it was not built for, or that its strides swallow
        raise ShapeError(
            f'TimmBackbone: a tile of {side} px for {model_name}: {first_line(error)}',
            expected='a side that the model takes',
            fix='set the tile size, or image_size of the tower',
        ) from error
    if not isinstance(features, Tensor) or features.dim() != 4:
        raise ConfigError(
            f'TimmBackbone: {model_name} has no feature map',
            expected='a model whose forward_features gives (B,C,H,W) or (B,H,W,C)',
            fix="type='TimmViT' takes vision transformers",
        )
    return features


def _pieces(probe: nn.Module, features: Tensor) -> tuple[list[str], list[list[str]]]:
    """Names of the modules that the map does not depend on, and of those of each stage."""
    from timm.models import group_parameters

    features.sum().backward()
    idle = {name for name, parameter in probe.named_parameters() if parameter.grad is None}
    try:
        matcher = probe.group_matcher(coarse=True)
        groups = [names for _, names in sorted(group_parameters(probe, matcher).items())]
        groups = groups[1:] if 'stem' in matcher else groups
    except (AttributeError, AssertionError, NotImplementedError):  # timm does not say
        groups = [[name for name, _ in probe.named_parameters()]]
    stages = [found for names in groups if (found := [*_modules_of(probe, set(names) - idle)])]
    # What follows the last stage, a norm or a convolution, belongs to it.
    if len({re.sub(r'\d.*', '', names[0]) for names in stages[-2:]}) == 2:
        stages[-2:] = [[*stages[-2], *stages[-1]]]
    return [*_modules_of(probe, idle)], stages


def _modules_of(module: nn.Module, names: Collection[str], prefix: str = '') -> Iterator[str]:
    """The largest modules all of whose parameters are among ``names``."""
    for key, child in module.named_children():
        inside = [f'{prefix}{key}.{name}' for name, _ in child.named_parameters()]
        if inside and all(name in names for name in inside):
            yield prefix + key
        elif any(name in names for name in inside):
            yield from _modules_of(child, names, f'{prefix}{key}.')


def _can_recompute(probe: nn.Module) -> bool:
    try:
        probe.set_grad_checkpointing(True)
    except (AttributeError, AssertionError, NotImplementedError):
        return False
    return True
