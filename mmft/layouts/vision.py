"""Vision towers inside directories: which tower a config describes, and its names on disk."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from mmft.errors import CheckpointError
from mmft.layouts.rules import Rule
from mmft.models.vision.timm_backbone import classifier_names, is_backbone

__all__ = ['INTERNVIT_DEFAULTS', 'KNOWN_TOWERS', 'side_of', 'tower_ignored', 'tower_rules', 'vision_tower']

INTERNVIT_DEFAULTS = {
    'hidden_size': 3200, 'num_hidden_layers': 48, 'num_attention_heads': 25, 'intermediate_size': 12800,
    'image_size': 224, 'patch_size': 14, 'qkv_bias': False, 'qk_normalization': True, 'norm_type': 'rms_norm',
    'layer_norm_eps': 1e-6, 'hidden_act': 'gelu', 'dropout': 0.0, 'attention_dropout': 0.0, 'drop_path_rate': 0.0,
    'initializer_factor': 0.1, 'initializer_range': 0.02,
}  # fmt: skip
"""What ``vision_config`` holds, and what the original (``InternVisionConfig``) takes where an entry is left out."""

TOWERS = {
    'clip': 'CLIP', 'clip_vision_model': 'CLIP', 'siglip': 'SigLIP', 'siglip_vision_model': 'SigLIP',
    'dinov2': 'DINOv2', 'intern_vit_6b': 'InternViT',
}  # fmt: skip
"""``model_type`` -> mmft's type."""

_CLIP_FIELDS = (
    'hidden_size', 'num_hidden_layers', 'num_attention_heads', 'intermediate_size', 'image_size', 'patch_size',
    'hidden_act', 'layer_norm_eps', 'attention_dropout',
)  # fmt: skip
_FIELDS = {
    'CLIP': _CLIP_FIELDS,
    'SigLIP': _CLIP_FIELDS,
    'DINOv2': (
        'hidden_size', 'num_hidden_layers', 'num_attention_heads', 'mlp_ratio', 'image_size', 'patch_size',
        'hidden_act', 'layer_norm_eps', 'qkv_bias', 'layerscale_value', 'use_swiglu_ffn', 'use_mask_token',
    ),
    'InternViT': tuple(INTERNVIT_DEFAULTS),
}  # fmt: skip

_CLIP_B = {'hidden_size': 768, 'num_hidden_layers': 12, 'num_attention_heads': 12, 'intermediate_size': 3072}
_CLIP_L = {'hidden_size': 1024, 'num_hidden_layers': 24, 'num_attention_heads': 16, 'intermediate_size': 4096}
_QUICK = {'model_type': 'clip_vision_model', 'hidden_act': 'quick_gelu', 'layer_norm_eps': 1e-5}
_SIGLIP = {
    'model_type': 'siglip_vision_model', 'hidden_act': 'gelu_pytorch_tanh', 'layer_norm_eps': 1e-6,
    'hidden_size': 1152, 'num_hidden_layers': 27, 'num_attention_heads': 16, 'intermediate_size': 4304,
}  # fmt: skip
_DINOV2 = {
    'model_type': 'dinov2', 'hidden_act': 'gelu', 'layer_norm_eps': 1e-6, 'mlp_ratio': 4, 'qkv_bias': True,
    'layerscale_value': 1.0, 'use_swiglu_ffn': False, 'image_size': 518, 'patch_size': 14,
}  # fmt: skip
KNOWN_TOWERS: dict[str, dict[str, Any]] = {
    'openai/clip-vit-base-patch32': {**_QUICK, **_CLIP_B, 'image_size': 224, 'patch_size': 32},
    'openai/clip-vit-base-patch16': {**_QUICK, **_CLIP_B, 'image_size': 224, 'patch_size': 16},
    'openai/clip-vit-large-patch14': {**_QUICK, **_CLIP_L, 'image_size': 224, 'patch_size': 14},
    'openai/clip-vit-large-patch14-336': {**_QUICK, **_CLIP_L, 'image_size': 336, 'patch_size': 14},
    'google/siglip-so400m-patch14-384': {**_SIGLIP, 'image_size': 384, 'patch_size': 14},
    'facebook/dinov2-base': {**_DINOV2, 'hidden_size': 768, 'num_hidden_layers': 12, 'num_attention_heads': 12},
    'facebook/dinov2-large': {**_DINOV2, 'hidden_size': 1024, 'num_hidden_layers': 24, 'num_attention_heads': 16},
}
"""Numbers of the towers that LLaVA-style checkpoints name by their hub's name, from the ``config.json`` there."""


def vision_tower(config: Mapping[str, Any], where: str, keys: Iterable[str] = ()) -> dict[str, Any]:
    """The ``vision`` dict for a vision model's config, without the settings that no such config has.

    Args:
        config: of the vision model, or of a CLIP or SigLIP of two towers, or timm's.
        where: for the error.
        keys: names of its tensors, which tell the tower where ``config`` does not.

    Raises:
        CheckpointError: a tower that mmft does not have, or no square one.
    """
    if 'pretrained_cfg' in config and 'architecture' in config:
        size, name = (config['pretrained_cfg'].get('input_size') or [3, None])[-1], config['architecture']
        kind = 'TimmBackbone' if is_backbone(name) else 'TimmViT'
        return {'type': kind, 'model_name': name, **({'image_size': size} if size else {})}
    kind = TOWERS.get(config.get('model_type') or '') or _tower_of_keys(keys)
    if kind is None:
        raise CheckpointError(
            f'{where}: a vision tower of model_type {config.get("model_type")!r}',
            expected=f"one of {sorted(TOWERS)}, or timm's config.json",
        )
    config = config.get('vision_config') or config
    fields = {key: config[key] for key in _FIELDS[kind] if config.get(key) is not None}
    # transformers leaves out what is its class's default.
    tower = {**(_defaults(kind) if 'model_type' in config else {}), **fields}
    if missing := {'hidden_size', 'num_hidden_layers', 'num_attention_heads', 'image_size', 'patch_size'} - set(tower):
        raise CheckpointError(f'{where}: the config of the {kind} tower has no {sorted(missing)}')
    if kind == 'CLIP':
        tower = {'hidden_act': 'quick_gelu', 'layer_norm_eps': 1e-5, **tower}
    return {'type': kind, **tower, **{name: side_of(tower[name], name) for name in ('image_size', 'patch_size')}}


def _defaults(kind: str) -> Mapping[str, Any]:
    if kind == 'InternViT':
        return INTERNVIT_DEFAULTS
    from transformers import AutoConfig

    known = AutoConfig.for_model({'CLIP': 'clip_vision_model', 'SigLIP': 'siglip_vision_model'}.get(kind, 'dinov2'))
    return {key: value for key in _FIELDS[kind] if (value := getattr(known, key, None)) is not None}


def _tower_of_keys(keys: Iterable[str]) -> str | None:
    keys = list(keys)
    marks = (('pre_layrnorm.weight', 'CLIP'), ('layer_scale1.lambda1', 'DINOv2'), ('.ls1', 'InternViT'),
             ('embeddings.patch_embedding.bias', 'SigLIP'))  # fmt: skip
    return next((kind for mark, kind in marks if any(key.endswith(mark) for key in keys)), None)


def side_of(value: int | list[int], name: str) -> int:
    """A side in px that may be given twice.

    >>> side_of([14, 14], 'patch_size')
    14
    """
    sides = [value] if isinstance(value, int) else list(value)
    if len(set(sides)) != 1:
        raise CheckpointError(f'vision_config.{name} = {value}', expected='a square')
    return sides[0]


def tower_rules(kind: str, theirs: str, ours: str = 'vision.', prefix: str = 'vision_model.') -> list[Rule]:
    """Names of a tower's tensors.

    Args:
        kind: mmft's type.
        theirs: what stands before them on disk.
        ours: what stands before them here.
        prefix: of CLIP and SigLIP, as it is written; directories with and without it are read.
    """
    if kind in ('CLIP', 'SigLIP'):
        names = ('embeddings', 'pre_layrnorm', 'encoder', 'post_layernorm')
        forms = (prefix, '' if prefix else 'vision_model.')
        return [Rule(f'{theirs}{form}{name}.{{x}}', f'{ours}tower.{name}.{{x}}') for form in forms for name in names]
    if kind == 'DINOv2':
        block, own = theirs + 'encoder.layer.{n}.', ours + 'tower.encoder.layer.{n}.'
        renames = {
            'attention.attention.query': 'attention.q_proj', 'attention.attention.key': 'attention.k_proj',
            'attention.attention.value': 'attention.v_proj', 'attention.output.dense': 'attention.o_proj',
        }  # fmt: skip
        return [
            *(Rule(f'{block}{a}.{{k}}', f'{own}{b}.{{k}}') for a, b in renames.items()),
            *(Rule(f'{theirs}{name}.{{x}}', f'{ours}tower.{name}.{{x}}') for name in _DINO),
        ]
    return [Rule(theirs + '{x}', ours + ('tower.{x}' if kind.startswith('Timm') else '{x}'))]


_DINO = ('embeddings', 'encoder', 'layernorm')


def tower_ignored(kind: str, theirs: str, model_name: str | None = None) -> tuple[str, ...]:
    """Names on disk of what belongs to a tower but is not built: pooling heads, classifiers, the text half.

    Args:
        model_name: of a ``TimmBackbone``.
    """
    if model_name is not None and kind == 'TimmBackbone':
        names = ('{x}.relative_position_index', '{x}.attn_mask', *classifier_names(model_name))
    elif kind in ('CLIP', 'SigLIP'):
        names = ('text_model.{x}', 'text_projection.{x}', 'visual_projection.{x}', 'logit_scale', 'logit_bias',
                 'vision_model.head.{x}', 'head.{x}', '{x}.position_ids')  # fmt: skip
    else:
        names = {'DINOv2': ('classifier.{x}',), 'TimmViT': ('head.{x}', 'attn_pool.{x}')}.get(kind, ('head.{x}',))
    return tuple(theirs + name for name in names)
