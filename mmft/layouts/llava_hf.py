"""transformers' own layouts of LLaVA: ``LlavaForConditionalGeneration`` and ``LlavaNextForConditionalGeneration``.

Names are those that llava-hf's directories and LMDeploy use (``vision_tower.vision_model.*``,
``language_model.model.*``); those of newer transformers (``model.language_model.*``) are read as well.

Sources: ``transformers/models/{llava,llava_next}``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmft.errors import CheckpointError
from mmft.files.directory import ModelDirectory, first_key
from mmft.layouts.base import Layout, Rule
from mmft.layouts.language import family_of, is_tied, language_model
from mmft.layouts.llava_official import llava_encoder, refuse, unpadded
from mmft.layouts.vision import PIXELS, tower_ignored, tower_rules, vision_tower

__all__ = ['LlavaHF', 'LlavaNextHF']

_PROJECTOR = {'linear_1': 'mlp.0', 'linear_2': 'mlp.2'}
_PINPOINTS = ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))  # transformers' LlavaNextConfig
_ACTIVATIONS = ('gelu', 'gelu_pytorch_tanh', 'relu', 'silu')


def _image_numbers(directory: ModelDirectory) -> dict[str, Any]:
    nested = directory.json('processor_config.json').get('image_processor')
    return nested or directory.json('preprocessor_config.json')


def _pixels(kind: str, directory: ModelDirectory | None) -> dict[str, Any]:
    """The directory's own pixel statistics, else those that the tower was trained with."""
    numbers = _image_numbers(directory) if directory is not None else {}
    if numbers.get('image_mean') and numbers.get('image_std'):
        return {'pixel_mean': tuple(numbers['image_mean']), 'pixel_std': tuple(numbers['image_std'])}
    return PIXELS.get(kind, {})


class LlavaHF(Layout):
    """llava-hf's LLaVA-1.5: one tile per picture, an MLP of two layers."""

    architecture = 'LlavaForConditionalGeneration'
    chat_templates = ('chat_template.jinja', 'chat_template.json', 'processor_config.json')
    zeros = ('llm.lm.lm_head.bias',)  # of Phi: transformers' LLaVA has a head without bias

    def __init__(self, model: dict[str, Any], options: dict[str, Any] | None = None) -> None:
        self._model, self.options = model, options or {}
        kind = model['vision']['type']
        tower = [name for at in ('vision_tower.', 'model.vision_tower.') for name in tower_ignored(kind, at)]
        self.ignored = (*Layout.ignored, *tower)

    @classmethod
    def from_config(cls, config: dict[str, Any], directory: ModelDirectory | None = None) -> LlavaHF:
        where = 'config.json' if directory is None else str(directory.path)
        vision, text = vision_tower(config['vision_config'], where), config['text_config']
        layer = config.get('vision_feature_layer', -2)
        if not isinstance(layer, int):
            raise CheckpointError(f'{where}: vision_feature_layer = {layer}', expected='one layer')
        if config.get('multimodal_projector_bias') is False:
            raise CheckpointError(f'{where}: a projector without bias', expected='multimodal_projector_bias = true')
        strategy = config.get('vision_feature_select_strategy', 'default')
        if strategy not in ('default', 'full'):
            what = f'{where}: vision_feature_select_strategy = {strategy!r}'
            raise CheckpointError(what, expected="'default' or 'full'")
        feature = {'select_feature': 'patch' if strategy == 'default' else 'cls_patch'}
        if vision['type'] == 'SigLIP':
            feature = {'drop_first': strategy == 'default'}
        # transformers 5 reads the tie at the top and writes its default there; older versions knew text_config's only.
        said = [value for at in (text, config) if (value := at.get('tie_word_embeddings')) is not None]
        keys = [] if directory is None else list(directory.tensors)
        tie = is_tied(any(said) if said else None, family_of({'model_type': 'llama', **text}) or 'Llama', keys)
        model = {
            'type': 'VLM',
            'vision': {**vision, 'select_layer': layer, **feature},
            'projector': {'type': 'MLP', 'depth': 2, 'act': config.get('projector_hidden_act', 'gelu')},
            'llm': language_model({'model_type': 'llama', **text}, where, tie=tie),
            'image_token_id': first_key(config, 'image_token_id', 'image_token_index'),
            **_pixels(vision['type'], directory),
            **cls._merge(),
        }
        return cls(model, config)

    @classmethod
    def _merge(cls) -> dict[str, Any]:
        return {}

    @classmethod
    def from_model(cls, model_config: dict[str, Any]) -> LlavaHF:
        vision, projector = model_config['vision'], model_config['projector']
        problems = []
        if vision['type'] not in ('CLIP', 'SigLIP', 'DINOv2'):
            problems.append(f'the tower {vision["type"]}: it holds CLIP, SigLIP and DINOv2')
        if projector['type'] != 'MLP' or projector.get('depth', 2) != 2 or projector.get('hidden_dim'):
            problems.append(f'the projector {projector["type"]}: it has an MLP of two layers, as wide as the LLM')
        elif projector.get('act', 'gelu') not in _ACTIVATIONS:
            problems.append(f'the activation {projector["act"]}')
        refuse(cls.architecture, [*problems, *cls._merge_problems(model_config.get('merge'))])
        return cls(model_config)

    @classmethod
    def _merge_problems(cls, merge: dict[str, Any] | None) -> list[str]:
        return ['tiles that are merged: LlavaNextForConditionalGeneration does'] if merge else []

    @property
    def model_config(self) -> dict[str, Any]:
        return self._model

    def encoder_config(self, directory: Path) -> dict[str, Any]:
        return llava_encoder(self._model, self._image_processor(ModelDirectory(directory)), directory)

    def _image_processor(self, directory: ModelDirectory) -> dict[str, Any]:
        numbers, side = _image_numbers(directory), self._model['vision']['image_size']
        if numbers.get('do_pad'):
            return {'type': 'PadSquare', 'tile_size': side, 'mean': numbers.get('image_mean', (0.5, 0.5, 0.5))}
        own = unpadded(self._model['vision']['type'])
        kind = {True: 'CenterCrop', False: 'Resize'}.get(numbers.get('do_center_crop'), own)
        return {'type': kind, 'tile_size': side}

    @property
    def rules(self) -> list[Rule]:
        kind = self._model['vision']['type']
        return [
            *(rule for at in ('', 'model.') for rule in tower_rules(kind, f'{at}vision_tower.')),
            *(
                Rule(f'{at}multi_modal_projector.{theirs}.{{k}}', f'projector.{ours}.{{k}}')
                for at in ('', 'model.')
                for theirs, ours in _PROJECTOR.items()
            ),
            Rule('image_newline', 'merge.image_newline'),
            Rule('model.image_newline', 'merge.image_newline'),
            Rule('language_model.{x}', 'llm.lm.{x}'),
            Rule('model.language_model.{x}', 'llm.lm.model.{x}'),
            Rule('lm_head.{k}', 'llm.lm.lm_head.{k}'),
        ]


class LlavaNextHF(LlavaHF):
    """llava-hf's LLaVA-NeXT (1.6): AnyRes tiles, their padding cut off, a newline after each row."""

    architecture = 'LlavaNextForConditionalGeneration'

    @classmethod
    def _merge(cls) -> dict[str, Any]:
        return {'merge': {'type': 'AnyResMerge', 'unpad': True, 'newline': True}}

    @classmethod
    def _merge_problems(cls, merge: dict[str, Any] | None) -> list[str]:
        if merge and merge.get('unpad', True) and merge.get('newline', True):
            return []
        return ['tiles that are not merged with unpad and newline: it does nothing else']

    def _image_processor(self, directory: ModelDirectory) -> dict[str, Any]:
        # transformers counts (height, width), and its list stands in this order where the config names none.
        pairs = self.options.get('image_grid_pinpoints') or _PINPOINTS
        pairs = [[width, height] for height, width in pairs]
        side = self._model['vision']['image_size']
        return {'type': 'AnyResTiler', 'grid_pinpoints': pairs, 'tile_size': side, 'mode': 'spatial_unpad'}
