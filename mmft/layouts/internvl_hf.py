"""transformers' own layout of InternVL (``InternVLForConditionalGeneration``), which LMDeploy and vLLM read too.

Names are those ``save_pretrained`` writes. No remote code is needed.

Sources: ``transformers/models/{internvl,got_ocr2}`` 5.23; LMDeploy 0.18, ``lmdeploy/vl/model/internvl3_hf.py`` and
``lmdeploy/pytorch/configurations``.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mmft.backends import Support
from mmft.errors import CheckpointError, ConfigError
from mmft.file_names import TEMPLATE_FILES
from mmft.files.directory import ModelDirectory
from mmft.layouts.base import Layout
from mmft.layouts.language import by_class, is_tied, language_model, not_held
from mmft.layouts.rules import Rule
from mmft.layouts.small_files import Contents, text_config
from mmft.layouts.vision import side_of
from mmft.models.language.family import AS_COMPUTED, held_by

if TYPE_CHECKING:
    from mmft.data.encoder import ChatEncoder

__all__ = ['InternVLHF']

_VIDEO = '<video>'


def _split3(packed: Tensor) -> tuple[Tensor, ...]:
    return tuple(part.contiguous() for part in packed.chunk(3))


def _join3(*parts: Tensor) -> tuple[Tensor]:
    return (torch.cat(parts),)


def _check_fixed(config: dict[str, Any], vision: dict[str, Any]) -> None:
    """What a config can set and mmft's classes have fixed."""
    if (act := config.get('projector_hidden_act', 'gelu')) != 'gelu':
        raise CheckpointError(f'projector_hidden_act = {act!r}', expected="'gelu', which PixelShuffleMLP has")
    if vision.get('use_qk_norm') and (eps := vision.get('layer_norm_eps', 1e-6)) != 1e-6:
        what = f'vision_config.use_qk_norm with layer_norm_eps = {eps}'
        raise CheckpointError(
            what, expected='1e-6: transformers fixes that of the q/k norms, InternViT has one for all'
        )


class InternVLHF(Layout):
    """HF-native InternVL. It has no pixel shuffle v1 and always takes the last block's features."""

    architecture = 'InternVLForConditionalGeneration'
    option = 'hf'
    chat_templates = TEMPLATE_FILES

    @classmethod
    def from_config(cls, config: dict[str, Any], directory: ModelDirectory | None = None) -> InternVLHF:
        vision, text = config['vision_config'], config['text_config']
        held = held_by('internvl_hf').items()
        kinds = {family.model_type: kind for kind, family in held if family.tensors == AS_COMPUTED}
        kind = kinds.get(text.get('model_type'))
        if kind is None:
            raise not_held('text_config.model_type', text.get('model_type'), kinds)
        _check_fixed(config, vision)
        keys = [] if directory is None else list(directory.tensors)
        tie = is_tied(config, kind, keys)
        model = {
            'type': 'VLM',
            'vision': {
                'type': 'InternViT',
                'hidden_size': vision['hidden_size'],
                'num_hidden_layers': vision['num_hidden_layers'],
                'num_attention_heads': vision['num_attention_heads'],
                'intermediate_size': vision['intermediate_size'],
                'image_size': side_of(vision['image_size'], 'image_size'),
                'patch_size': side_of(vision['patch_size'], 'patch_size'),
                'qkv_bias': vision.get('attention_bias', False),
                'qk_normalization': vision.get('use_qk_norm', False),
                'norm_type': vision.get('norm_type', 'layer_norm'),
                'layer_norm_eps': vision.get('layer_norm_eps', 1e-6),
                'hidden_act': vision.get('hidden_act', 'gelu'),
                'select_layer': config.get('vision_feature_layer', -1),
            },
            'projector': {'type': 'PixelShuffleMLP', 'scale': config.get('downsample_ratio', 0.5), 'version': 'v2'},
            'llm': language_model(text, 'text_config', kind, tie=tie),
            'image_token_id': config.get('image_token_id'),
        }
        return cls(model, config)

    @classmethod
    def from_model(cls, model_config: dict[str, Any]) -> InternVLHF:
        vision, projector, llm = (model_config[part] for part in ('vision', 'projector', 'llm'))
        problems = []
        if vision['type'] != 'InternViT' or projector['type'] != 'PixelShuffleMLP':
            problems.append(f'{vision["type"]} + {projector["type"]}: it holds InternViT + PixelShuffleMLP')
        held = held_by('internvl_hf')
        if llm['type'] not in held:
            problems.append(f'{llm["type"]}: it holds {sorted(held)}')
        if projector.get('version', 'v2') != 'v2':
            problems.append('pixel shuffle v1: transformers has v2 only; use --layout official')
        if vision.get('select_layer', -1) != -1:
            # transformers would take hidden_states[select_layer], but LMDeploy serves the last layer whatever it says.
            problems.append(
                f'select_layer {vision["select_layer"]}: LMDeploy takes the last layer; use --layout official'
            )
        if vision.get('qk_normalization') and vision.get('layer_norm_eps', 1e-6) != 1e-6:
            problems.append('q/k norm with an eps other than 1e-6, which transformers fixes; use --layout official')
        if problems:
            raise ConfigError.gather([f'HF-native InternVL cannot hold {p}' for p in problems])
        return cls(model_config)

    def encoder_config(self, directory: Path) -> dict[str, Any]:
        # Newer directories carry the tiler's numbers in (pre)processor_config.json.
        numbers = ModelDirectory(directory).image_processor
        size = numbers.get('size') or {}
        tiler = {
            'type': 'DynamicTiler',
            'tile_size': size.get('height') or self._model['vision']['image_size'],
            'min_tiles': numbers.get('min_patches', 1),
            'max_tiles': numbers.get('max_patches', 12),
            'thumbnail': True,
        }
        return {'type': 'ChatEncoder', 'template': 'internvl2_5', 'image_processor': tiler}

    @property
    def rules(self) -> list[Rule]:
        block, ours = 'vision_tower.encoder.layer.{n}.', 'vision.encoder.layers.{n}.'
        renames = {
            'attention.projection_layer': 'attn.proj',
            'attention.q_norm': 'attn.q_norm', 'attention.k_norm': 'attn.k_norm',
            'mlp.fc1': 'mlp.fc1', 'mlp.fc2': 'mlp.fc2', 'layernorm_before': 'norm1', 'layernorm_after': 'norm2',
        }  # fmt: skip
        return [
            Rule(tuple(f'{block}attention.{p}_proj.{{k}}' for p in 'qkv'), ours + 'attn.qkv.{k}', _join3, _split3),
            *(Rule(f'{block}{a}.{{k}}', f'{ours}{b}.{{k}}') for a, b in renames.items()),
            Rule(block + 'lambda_1', ours + 'ls1'),
            Rule(block + 'lambda_2', ours + 'ls2'),
            Rule('vision_tower.embeddings.cls_token', 'vision.embeddings.class_embedding'),
            Rule('vision_tower.embeddings.position_embeddings', 'vision.embeddings.position_embedding'),
            Rule('vision_tower.embeddings.patch_embeddings.projection.{k}', 'vision.embeddings.patch_embedding.{k}'),
            Rule('multi_modal_projector.layer_norm.{k}', 'projector.mlp.0.{k}'),
            Rule('multi_modal_projector.linear_1.{k}', 'projector.mlp.1.{k}'),
            Rule('multi_modal_projector.linear_2.{k}', 'projector.mlp.3.{k}'),
            Rule('language_model.{x}', 'llm.lm.{x}'),
        ]

    @classmethod
    def support(cls) -> list[Support]:
        return [
            Support(cls.option, cls.architecture, name, kinds, turbomind=family.turbomind, pytorch=family.pytorch)
            for name, kinds, family in by_class(held_by('internvl_hf'))
        ]

    def check(self, contents: Contents) -> None:
        # What transformers' InternVLProcessor cannot do as the encoder does it.
        encoder, tiler = contents.encoder, contents.tiler or {'type': 'DynamicTiler'}
        if encoder is None:
            return
        problems = []
        if tiler['type'] not in ('DynamicTiler', 'Resize'):
            problems.append(f'it cuts pictures into tiles or stretches them; the encoder has {tiler["type"]}')
        if tiler['type'] == 'DynamicTiler' and tiler.get('max_tiles', 1) > 1 and not tiler.get('thumbnail', True):
            problems.append('it adds a thumbnail to every picture of several tiles; the encoder has thumbnail=False')
        if not (encoder.image_start and encoder.image_end):
            problems.append('it puts a token before and after each picture; the encoder has none')
        if problems:
            raise ConfigError.gather([f"transformers' InternVLProcessor: {p}; use --layout official" for p in problems])

    def config_json(self, contents: Contents) -> dict[str, Any]:
        vision, llm, dtype = contents.model.vision, contents.model.llm.lm.config, contents.dtype
        config = {
            'architectures': [self.architecture],
            'model_type': 'internvl',
            'dtype': dtype,
            # transformers reads the tie here, where its default is true; LMDeploy in text_config.
            'tie_word_embeddings': bool(llm.tie_word_embeddings),
            'image_token_id': contents.image_token_id,
            'image_seq_length': contents.tokens_per_tile,
            'downsample_ratio': contents.model.projector.scale,
            'projector_hidden_act': 'gelu',
            'vision_feature_layer': -1,
            'vision_feature_select_strategy': 'default',
            'text_config': text_config(contents),
            'vision_config': {
                'architectures': ['InternVLVisionModel'],
                'model_type': 'internvl_vision',
                'dtype': dtype,
                'hidden_size': vision.hidden_size,
                'num_hidden_layers': len(vision.layers),
                'num_attention_heads': vision.num_attention_heads,
                'intermediate_size': vision.intermediate_size,
                'image_size': [vision.image_size] * 2,
                'patch_size': [vision.patch_size] * 2,
                'num_channels': 3,
                'attention_bias': vision.qkv_bias,
                'use_qk_norm': vision.qk_normalization,
                'norm_type': vision.norm_type,
                'layer_norm_eps': vision.layer_norm_eps,
                'hidden_act': vision.hidden_act,
                'hidden_dropout_prob': vision.dropout,
                'attention_dropout': vision.attention_dropout,
                'initializer_range': vision.initializer_range,
                'layer_scale_init_value': vision.initializer_factor,
                'use_absolute_position_embeddings': True,
                'use_mask_token': False,
                'use_mean_pooling': True,
            },
        }
        return {name: value for name, value in config.items() if value is not None}

    def small_files(self, contents: Contents, config: dict[str, Any]) -> dict[str, dict[str, Any]]:
        if contents.encoder is None:
            return {}
        processor = _processor_config(contents)
        parts = {'preprocessor_config.json': 'image_processor', 'video_preprocessor_config.json': 'video_processor'}
        kind = {'processor_class': processor['processor_class']}
        return {'processor_config.json': processor, **{name: processor[part] | kind for name, part in parts.items()}}

    def special_tokens(self, encoder: ChatEncoder) -> dict[str, str]:
        # InternVL2 knows no videos, but the processor wants a token for them. A new one would lie outside the
        # embedding; this one stands in no prompt before pictures are put in, and a user who writes it gets an error.
        video = _VIDEO if _VIDEO in encoder.tokenizer.get_added_vocab() else encoder.image_end
        return {
            'start_image_token': encoder.image_start,
            'end_image_token': encoder.image_end,
            'context_image_token': encoder.image_token,
            'video_token': video,
        }

    def picture(self, encoder: ChatEncoder) -> str:
        return encoder.image_token


def _processor_config(contents: Contents) -> dict[str, Any]:
    """``processor_config.json``; its two parts are files of their own for older programs."""
    tiler = contents.tiler
    common = {**contents.pixel_steps, 'size': {'height': contents.side, 'width': contents.side}}
    tiles = {
        # LMDeploy and InternVLProcessor cut in any case; one tile at most is a plain resize.
        'crop_to_patches': True,
        'min_patches': tiler.get('min_tiles', 1),
        'max_patches': tiler.get('max_tiles', 1),
        **contents.transparency,
    }
    return {
        'processor_class': 'InternVLProcessor',
        'image_seq_length': contents.tokens_per_tile,
        'image_processor': {'image_processor_type': 'GotOcr2ImageProcessor', **common, **tiles},
        'video_processor': {'video_processor_type': 'InternVLVideoProcessor', **common},
    }
