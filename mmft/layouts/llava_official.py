"""LLaVA's own layout (``LlavaLlamaForCausalLM`` and the like), read as data: LLaVA-1.5, 1.6 and TinyLLaVABench.

The vision tower lies in the weights, or in a directory of its own that ``mm_vision_tower`` names.

Sources: ``llava/model/{llava_arch,builder}.py``, ``multimodal_encoder`` and ``multimodal_projector`` of
haotian-liu/LLaVA.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mmft.errors import CheckpointError, ConfigError
from mmft.files.directory import ModelDirectory
from mmft.files.tensors import Joined, TensorSource
from mmft.geometry import MERGE_MODES
from mmft.layouts.base import Layout, Rule
from mmft.layouts.language import family_of_keys, family_of_name, language_model
from mmft.layouts.projectors import llava_projector_rules
from mmft.layouts.vision import KNOWN_TOWERS, PIXELS, tower_ignored, tower_rules, vision_tower
from mmft.models.language.family import families, held_by

__all__ = ['LlavaOfficial', 'image_processor', 'llava_encoder', 'refuse', 'unpadded']

_CLASS = re.compile(r'(?:Tiny)?Llava(\w*?)ForCausalLM')
_MODEL_TYPE = re.compile(r'(?:tiny_?)?llava_?(\w*)')
_TOWER = 'model.vision_tower.vision_tower.'
_MOE = 'model.mm_projector.deepspeed_moe.'
_TOKENIZER_FILES = ('added_tokens.json', 'tokenizer_config.json', 'tokenizer.json')


def refuse(layout: str, problems: list[str]) -> None:
    """Raise ``ConfigError`` with every reason why ``layout`` cannot hold a model, if there is one."""
    if problems:
        raise ConfigError.gather([f'{layout} cannot hold {problem}' for problem in problems])


class LlavaOfficial(Layout):
    """The layout of liuhaotian/llava-* directories.

    Args:
        model: mmft's ``model`` dict.
        options: the entries of ``config.json`` that concern pictures.
        tower: directory of the vision tower, where the weights hold none.
    """

    architecture = 'LlavaLlamaForCausalLM'

    def __init__(self, model: dict[str, Any], options: dict[str, Any] | None = None, tower: Path | None = None) -> None:
        self._model, self.options, self.tower = model, options or {}, tower
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
            **PIXELS.get(vision['type'], {}),
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
        held = _dense_type(keys)
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
        if llm['type'] not in (held := held_by('llava_official')):
            problems.append(f'the language model {llm["type"]}: it has {" and ".join(sorted(held))}')
        refuse("LLaVA's own layout", problems)
        return cls(model_config)

    @property
    def model_config(self) -> dict[str, Any]:
        return self._model

    def open(self, directory: ModelDirectory) -> TensorSource:
        """Its tensors, and those of the tower that it names."""
        if self.tower is None:
            return directory.tensors
        return Joined.of({'': directory.tensors, _TOWER: ModelDirectory(self.tower).tensors})

    def encoder_config(self, directory: Path) -> dict[str, Any]:
        encoder = llava_encoder(self._model, image_processor(self.options, self._model), directory)
        if self.options.get('mm_use_im_start_end'):
            encoder |= {'image_start': '<im_start>', 'image_end': '<im_end>'}
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


def llava_encoder(model: dict[str, Any], processor: dict[str, Any], directory: Path | None = None) -> dict[str, Any]:
    """The ``encoder`` dict of a foreign directory of this family: a picture is ``<image>`` with nothing around it.

    Args:
        directory: whose tokenizer may tell that the chat template is not its language model's usual one.
    """
    return {
        'type': 'ChatEncoder',
        'template': _template(model, directory),
        'image_processor': processor,
        'image_start': '',
        'image_token': '<image>',
        'image_end': '',
        'images_first': True,
        'add_tokens': True,  # LLaVA's own tokenizers have no <image>: its code looks for the text
    }


def _template(model: dict[str, Any], directory: Path | None) -> str:
    """The chat template: no file of theirs names it. LLaVA's own code sees a dialect by the folder's name, we by the
    tokens."""
    family = families().get(model['llm']['type'])
    if family is None:
        return 'vicuna_v1'
    files = [Path(directory) / name for name in _TOKENIZER_FILES] if directory is not None and family.dialects else []
    text = '\n'.join(file.read_text(encoding='utf-8', errors='replace') for file in files if file.is_file())
    spoken = (templates for token, templates in family.dialects.items() if token in text)
    return next(spoken, (family.template, family.template))[bool(model.get('merge'))]


def unpadded(tower: str) -> str:
    """What becomes of a picture that is neither padded nor tiled: SigLIP's own processor stretches it, CLIP's crops."""
    return 'Resize' if tower == 'SigLIP' else 'CenterCrop'


def _dense_type(keys: list[str]) -> str | None:
    """``mm_projector_type`` of the tensors, where they are those of a linear map or an MLP.

    >>> _dense_type(['model.mm_projector.0.weight', 'model.mm_projector.2.weight'])
    'mlp2x_gelu'
    """
    found = {match[1] for key in keys if (match := re.fullmatch(r'model\.mm_projector\.(?:(\d+)\.)?weight', key))}
    if not found:
        return None
    return 'linear' if None in found else f'mlp{len(found)}x_gelu'


def _merge(config: dict[str, Any]) -> dict[str, Any]:
    kind = config.get('mm_patch_merge_type') or 'flat'
    # The original merges pictures that come in several tiles; without 'anyres' there is one.
    if kind == 'flat' or not str(config.get('image_aspect_ratio')).startswith('anyres'):
        return {}
    if kind not in MERGE_MODES:
        expected = f"'flat' or one of {list(MERGE_MODES)}"
        raise CheckpointError(f'config.json: mm_patch_merge_type {kind!r}', expected=expected)
    return {'merge': {'type': 'AnyResMerge', **MERGE_MODES[kind]}}


def image_processor(options: dict[str, Any], model: dict[str, Any]) -> dict[str, Any]:
    """The image processor of a LLaVA config.

    Args:
        options: ``image_aspect_ratio`` (``pad``, ``anyres`` or what the tower's own processor does) and
            ``image_grid_pinpoints``.
    """
    side, kind = model['vision'].get('image_size', 336), options.get('image_aspect_ratio')
    if kind == 'pad':
        return {'type': 'PadSquare', 'tile_size': side, 'mean': list(model.get('pixel_mean', (0.5, 0.5, 0.5)))}
    if str(kind).startswith('anyres_'):
        raise CheckpointError(
            f'config.json: image_aspect_ratio {kind!r}, which shrinks large pictures after the tower',
            expected="'anyres', 'pad' or 'square'",
            fix="the tokens of 'anyres' are another model's; set that only to train anew",
        )
    if kind == 'anyres':
        mode = options.get('mm_patch_merge_type') or 'flat'
        pairs = options.get('image_grid_pinpoints')  # (width, height); text in older files
        return {'type': 'AnyResTiler', 'grid_pinpoints': pairs, 'tile_size': side, 'mode': mode}
    return {'type': unpadded(model['vision']['type']), 'tile_size': side}
