"""LLaVA's own layout (``LlavaLlamaForCausalLM`` and the like), read as data: LLaVA-1.5, 1.6, OneVision, TinyLLaVABench.

The vision tower lies in the weights, or in a directory of its own that ``mm_vision_tower`` names. Written, its weights
and, in ``vision_config.json``, its numbers go along, so that ``mmft.load`` needs nothing beside the directory; the
original programs take the tower that is named and put these weights over it.

Sources: ``llava/model/{llava_arch,builder}.py``, ``llava/mm_utils.py``, ``multimodal_encoder`` and
``multimodal_projector`` of haotian-liu/LLaVA.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mmft.backends import Support, unsupported
from mmft.errors import CheckpointError
from mmft.files.directory import ModelDirectory
from mmft.files.tensors import Joined, TensorSource
from mmft.geometry import MERGE_MODES
from mmft.json_files import read_json
from mmft.layouts.base import Layout, refuse
from mmft.layouts.language import family_of_keys, family_of_name, language_model
from mmft.layouts.llava_encoder import image_processor, llava_encoder, shrinking
from mmft.layouts.projectors import dense_name, dense_type, llava_projector_rules
from mmft.layouts.rules import Rule
from mmft.layouts.small_files import Contents, llm_ids, older_config, plain_config
from mmft.layouts.vision import KNOWN_TOWERS, tower_ignored, tower_rules, vision_tower
from mmft.models.language.family import held_by
from mmft.models.normalizer import TOWER_PIXELS

__all__ = ['LlavaOfficial']

_CLASS = re.compile(r'(?:Tiny)?Llava(\w*?)ForCausalLM')
_MODEL_TYPE = re.compile(r'(?:tiny_?)?llava_?(\w*)')
_TOWER = 'model.vision_tower.vision_tower.'
_MOE = 'model.mm_projector.deepspeed_moe.'
_ASPECT = {'PadSquare': 'pad', 'CenterCrop': 'square', 'AnyResTiler': 'anyres'}
_STARTS = ('<im_start>', '<im_end>')


class LlavaOfficial(Layout):
    """The layout of liuhaotian/llava-* directories.

    Args:
        model: mmft's ``model`` dict.
        options: the entries of ``config.json`` that concern pictures.
        tower: directory of the vision tower, where the weights hold none.
    """

    architecture = 'LlavaLlamaForCausalLM'
    option = 'official'

    def __init__(self, model: dict[str, Any], options: dict[str, Any] | None = None, tower: Path | None = None) -> None:
        super().__init__(model, options)
        self.tower = tower
        self.ignored = (*Layout.ignored, *tower_ignored(model['vision']['type'], _TOWER))
        if not (model.get('merge') or {}).get('newline'):
            # A run that flattens its tiles may have inherited a newline that it never uses.
            self.ignored = (*self.ignored, 'model.image_newline')

    @classmethod
    def matches(cls, config: dict[str, Any]) -> bool:
        # A run that started from a bare language model keeps that model's name in `architectures`.
        return 'mm_vision_tower' in config and 'text_config' not in config

    @classmethod
    def from_config(cls, config: dict[str, Any], directory: ModelDirectory | None = None) -> LlavaOfficial:
        where = 'config.json' if directory is None else str(directory.path)
        keys = list(directory.tensors) if directory is not None else []
        inside = [key for key in keys if key.startswith(_TOWER)]
        tower = None
        if directory is not None and not inside:
            tower = directory.find(
                config['mm_vision_tower'],
                directory.vision,
                'the vision tower',
                'put the tower beside it under this name, or pass its directory: mmft.load(path, vision=...)',
            )
        if config.get('s2'):
            raise CheckpointError(
                f'{where}: config.json says s2, pictures seen at several scales',
                expected='a tower that sees one',
                fix='mmft has no such tower: write one (CONTRIBUTING.md)',
            )
        vision = cls._vision(config, directory, tower, inside, where)
        kind = cls._family(config) or family_of_keys(key for key in keys if not key.startswith(_TOWER))
        model = {
            'type': 'VLM',
            'vision': {
                **vision,
                'select_layer': config.get('mm_vision_select_layer', -2),
                'select_feature': config.get('mm_vision_select_feature', 'patch'),
            },
            'projector': cls._projector(config, keys, where),
            'llm': language_model(config, where, kind),
            **TOWER_PIXELS.get(vision['type'], {}),
            **_merge(config),
        }
        return cls(model, config, tower)

    @staticmethod
    def _vision(
        config: dict[str, Any], directory: ModelDirectory | None, tower: Path | None, keys: list[str], where: str
    ) -> dict[str, Any]:
        """The tower's numbers: from its own directory, a ``vision_config.json`` beside, or the tower's name."""
        name = config['mm_vision_tower']
        if tower is not None:
            found = ModelDirectory(tower)
            return vision_tower(found.config, str(tower), found.tensors)
        found = directory.json('vision_config.json') if directory is not None else {}
        found = found or KNOWN_TOWERS.get(str(name)) or {}
        if not found and directory is not None:
            # The weights are here, only their numbers are not: the directory that is named may say them.
            tower = directory.find(
                str(name),
                directory.vision,
                "the numbers of the vision tower's config: the directory",
                "put the tower's config.json there, or write it beside the weights as vision_config.json",
            )
            found = ModelDirectory(tower).config
        return vision_tower(found, where, keys)

    @staticmethod
    def _family(config: dict[str, Any]) -> str | None:
        for architecture in config.get('architectures') or []:
            if match := _CLASS.fullmatch(architecture):
                return family_of_name(match[1] or 'llama')
        match = _MODEL_TYPE.fullmatch(config.get('model_type') or '')
        return family_of_name(match[1] or 'llama') if match else None

    @staticmethod
    def _projector(config: dict[str, Any], keys: list[str], where: str) -> dict[str, Any]:
        kind = config.get('mm_projector_type') or 'linear'
        experts = {key.split('.')[5] for key in keys if key.startswith(f'{_MOE}experts.')}
        match = re.fullmatch(r'mlp(\d+)x_gelu', kind)
        held = dense_type(keys, 'model.mm_projector.')
        if held not in (None, kind) and (match or kind in ('linear', 'identity', 'resampler')):
            raise CheckpointError(
                f'{where}: config.json says mm_projector_type {kind!r}, the weights hold {held!r}',
                expected='the config.json that was saved with these weights',
                fix=f'set mm_projector_type to {held!r}, or take the projector that belongs to it',
            )
        if experts:
            return {'type': 'MoEMLP', 'num_experts': len(experts), 'depth': int(match[1]) if match else 2}
        if match:
            return {'type': 'MLP', 'depth': int(match[1]), 'act': 'gelu'}
        if kind == 'resampler':
            own = {
                'num_queries': 'num_queries',
                'depth': 'num_resampler_layers',
                'hidden_size': 'resampler_hidden_size',
            }
            found = {ours: config[theirs] for ours, theirs in own.items() if config.get(theirs)}
            return {'type': 'BenchResampler', **found}
        if kind in ('linear', 'identity'):
            return {'type': kind.capitalize()}
        raise CheckpointError(
            f'{where}: config.json says mm_projector_type {kind!r}',
            expected="'linear', 'identity', 'mlp2x_gelu' (of any depth) or 'resampler'",
            fix='mmft has no such projector: write one (CONTRIBUTING.md) and a layout that names its tensors',
        )

    @classmethod
    def from_model(cls, model_config: dict[str, Any]) -> LlavaOfficial:
        vision, projector, llm = (model_config[part] for part in ('vision', 'projector', 'llm'))
        problems = []
        if vision['type'] != 'CLIP':
            problems.append(f'the tower {vision["type"]}: its code builds CLIP')
        if projector['type'] not in ('Linear', 'MLP', 'Identity'):
            problems.append(f'the projector {projector["type"]}: it has Linear, MLP and Identity')
        if projector['type'] == 'MLP' and (projector.get('act', 'gelu') != 'gelu' or projector.get('hidden_dim')):
            problems.append('an MLP of another activation or width than its mlpNx_gelu')
        if (model_config.get('merge') or {}).get('shrink_to'):
            problems.append('a merge with shrink_to: --layout hf does')
        if llm['type'] not in (held := held_by('llava_official')):
            problems.append(f'the language model {llm["type"]}: it has {" and ".join(sorted(held))}')
        refuse("LLaVA's own layout", problems)
        return cls(model_config)

    def open(self, directory: ModelDirectory) -> TensorSource:
        """Its tensors, and those of the tower that it names."""
        if self.tower is None:
            return directory.tensors
        return Joined.of({'': directory.tensors, _TOWER: ModelDirectory(self.tower).tensors})

    def encoder_config(self, directory: Path) -> dict[str, Any]:
        encoder = llava_encoder(self._model, image_processor(self.options, self._model), directory)
        if self.options.get('mm_use_im_start_end'):
            encoder |= dict(zip(('image_start', 'image_end'), _STARTS, strict=True))
        return encoder

    @property
    def rules(self) -> list[Rule]:
        return [
            Rule('model.image_newline', 'merge.image_newline'),
            *tower_rules(self._model['vision']['type'], _TOWER),
            *llava_projector_rules(self._model['projector']['type']),
            Rule('model.{x}', 'llm.lm.model.{x}'),
            Rule('lm_head.{k}', 'llm.lm.lm_head.{k}'),
        ]

    @classmethod
    def support(cls) -> list[Support]:
        return [unsupported(cls.option, f'Llava{kind}ForCausalLM', cls.readers) for kind in held_by('llava_official')]

    def check(self, contents: Contents) -> None:
        encoder, kind = contents.encoder, contents.tiler.get('type')
        problems = contents.pixel_problems('CLIP')
        if kind is not None and kind not in _ASPECT:
            problems.append(f'{kind}: it has {", ".join(_ASPECT)}')
        if encoder is not None and (encoder.image_start, encoder.image_end) not in (_STARTS, ('', '')):
            around = f'{encoder.image_start!r} and {encoder.image_end!r} around pictures'
            problems.append(f'{around}: it has {_STARTS[0]} and {_STARTS[1]}')
        refuse("LLaVA's own layout", problems, '; use --layout native')

    def config_json(self, contents: Contents) -> dict[str, Any]:
        model, tiler, encoder = contents.model, contents.tiler, contents.encoder
        kind = type(model.llm).__name__
        llm = older_config(model.llm.lm.config)
        config = {
            **llm,
            **llm_ids(llm, encoder),
            'architectures': [f'Llava{kind}ForCausalLM'],
            'model_type': f'llava_{kind.lower()}',
            'torch_dtype': contents.dtype,
            'mm_vision_tower': _tower_name(contents),
            'mm_hidden_size': model.vision.hidden_size,
            'mm_vision_select_layer': model.vision.select_layer,
            'mm_vision_select_feature': model.vision.select_feature,
            'mm_projector_type': dense_name(model.projector),
            'mm_patch_merge_type': 'flat' if model.merge is None else model.merge.mode,
            'mm_use_im_start_end': encoder is not None and (encoder.image_start, encoder.image_end) == _STARTS,
            'mm_use_im_patch_token': False,
            'use_mm_proj': True,
            'unfreeze_mm_vision_tower': True,  # the weights hold the tower
            'image_aspect_ratio': _ASPECT.get(tiler.get('type'), 'square'),
        }
        config.pop('dtype', None)
        if 'grid_pinpoints' in tiler:
            config['image_grid_pinpoints'] = [list(size) for size in tiler['grid_pinpoints']]
        return config

    def small_files(self, contents: Contents, config: dict[str, Any]) -> dict[str, dict[str, Any]]:
        return {'vision_config.json': plain_config(contents.model.vision.tower.config)}


def _tower_name(contents: Contents) -> str:
    """``mm_vision_tower``: as the base says, or the published tower that has these numbers."""
    if contents.base is not None:
        named = read_json(contents.base / 'config.json', optional=True).get('mm_vision_tower')
        if named:
            return named
    numbers = contents.model.vision.tower.config.to_dict()
    same = (name for name, known in KNOWN_TOWERS.items() if all(numbers.get(k) == v for k, v in known.items()))
    return next(same, 'clip')


def _merge(config: dict[str, Any]) -> dict[str, Any]:
    kind, aspect = config.get('mm_patch_merge_type') or 'flat', str(config.get('image_aspect_ratio'))
    if aspect.startswith('anyres_'):
        if kind != 'spatial_unpad':
            raise CheckpointError(
                f'config.json: {aspect} with mm_patch_merge_type {kind!r}', expected="'spatial_unpad'"
            )
        return {'merge': {'type': 'AnyResMerge', **MERGE_MODES[kind], 'shrink_to': shrinking(aspect)}}
    # The original merges pictures that come in several tiles; without 'anyres' there is one.
    if kind == 'flat' or aspect != 'anyres':
        return {}
    if kind not in MERGE_MODES:
        expected = f"'flat' or one of {list(MERGE_MODES)}"
        raise CheckpointError(f'config.json: mm_patch_merge_type {kind!r}', expected=expected)
    return {'merge': {'type': 'AnyResMerge', **MERGE_MODES[kind]}}
