"""``pretrained`` as a dict: each part of a model from a directory of its own.

    pretrained = dict(vision='pretrained/clip-vit-large-patch14-336', llm='pretrained/vicuna-7b-v1.5')

A directory holds just the part (CLIP, SigLIP, DINOv2, timm's, InternViT; a causal language model, which may also be a
GGUF file; a projector or BLIP-2's Q-Former, which may also be one file), or a whole model, of which the part is taken.
Parts that are not named start with random weights. ``vision`` takes a list where the tower is made of several. The
weights of a user's part are a file, or a directory, which needs no ``config.json``, under the names of its
``state_dict()``.

On this layout's side a tensor is called by its part and its name there: ``vision/vision_model.post_layernorm.weight``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmft.checkpoint.silent_settings import same_value
from mmft.errors import ConfigError
from mmft.files.directory import ModelDirectory
from mmft.files.gguf import GGUFFile
from mmft.files.partial import check_not_quantised, projector_config, projector_file, without_embeddings
from mmft.files.tensor_names import unwrapped_tensors
from mmft.files.tensors import Joined, TensorDirectory, TensorFiles, TensorSource
from mmft.gguf_files import is_gguf
from mmft.layouts import layout_of, matches_any
from mmft.layouts.blip2 import blip2_tower, is_blip2
from mmft.layouts.language import family_of, family_of_keys, language_model, llm_rules
from mmft.layouts.projectors import PROJECTOR_IGNORED, any_projector_rules, optional_names
from mmft.layouts.rules import NameTable, Rule, pattern
from mmft.layouts.vision import tower_ignored, tower_rules, vision_tower
from mmft.models.tuning import part_of
from mmft.models.vision.timm_backbone import timm_pixels
from mmft.registry import LANGUAGE_MODELS, PROJECTORS, VISION_TOWERS, registered_name
from mmft.user_code import code_of
from mmft.words import count_of

__all__ = ['PARTS', 'PartNames', 'is_user_part', 'read_parts']

PARTS = ('vision', 'projector', 'llm')
_REGISTRIES = {'vision': VISION_TOWERS, 'projector': PROJECTORS, 'llm': LANGUAGE_MODELS}
WEIGHT_SUFFIXES = ('.bin', '.pth', '.pt', '.safetensors')


@dataclass(frozen=True)
class Part:
    """One directory, read as a part.

    Attributes:
        settings: of the part's dict in ``model``, as far as the directory says them.
        rules: its names, behind the part's prefix, and ours.
        ignored: its names, behind the prefix, that belong to no part.
    """

    settings: dict[str, Any]
    rules: list[Rule]
    ignored: tuple[str, ...]
    tensors: TensorSource


class PartNames(NameTable):
    """The names of several directories together."""

    architecture = 'parts'
    zeros = ('{x}.num_batches_tracked',)  # of batch norms; files from other frameworks have none

    def __init__(self, model: dict[str, Any], parts: Mapping[str, Part]) -> None:
        self._model, self._parts = model, dict(parts)
        self.ignored = tuple(name for part in parts.values() for name in part.ignored)
        self.covered = {prefix.split('/')[0] for prefix in parts}
        self._optional = [pattern(name) for name in optional_names(model['projector']['type'])]

    @property
    def model_config(self) -> dict[str, Any]:
        return self._model

    @property
    def rules(self) -> list[Rule]:
        return [rule for part in self._parts.values() for rule in part.rules]

    def may_be_random(self, name: str) -> bool:
        """Whether the tensor may start with random values: of a part without a directory, or optional in its file."""
        return part_of(name) not in self.covered or any(p.fullmatch(name) for p in self._optional)


def read_parts(pretrained: Mapping[str, Any], model_config: Mapping[str, Any]) -> tuple[PartNames, TensorSource]:
    """The layout and the tensors of a ``pretrained`` dict.

    Args:
        pretrained: part -> directory, file or, for ``vision``, a list of directories.
        model_config: the config's ``model`` dict.

    Raises:
        CheckpointError: a directory that cannot be read as that part.
        ConfigError: an unknown part.
    """
    model = {**model_config}
    parts: dict[str, Part] = {}
    for name, place in pretrained.items():
        if name not in PARTS:
            raise ConfigError(f'pretrained names the part {name!r}', expected=f'some of {list(PARTS)}')
        if isinstance(place, (list, tuple)):
            towers = _read_towers(place, model_config)
            parts |= towers
            read = [{**tower, **part.settings} for tower, part in
                    zip(model_config['vision']['towers'], towers.values(), strict=True)]  # fmt: skip
            model['vision'] = {**model_config['vision'], 'towers': read}
            continue
        part = _read_part(name, Path(place), model_config[name], model_config)
        parts[f'{name}/'] = part
        # A language model's directory says all of it; a tower's knows nothing of select_layer and the like.
        model[name] = part.settings if name == 'llm' else {**model_config[name], **part.settings}
    layout = PartNames(model, parts)
    return layout, Joined.of({prefix: part.tensors for prefix, part in parts.items()})


def _read_towers(places: Sequence[Any], model_config: Mapping[str, Any]) -> dict[str, Part]:
    towers = model_config['vision'].get('towers') or []
    if len(places) != len(towers):
        raise ConfigError(
            f'pretrained.vision lists {count_of(len(places), "directory", "directories")} for '
            f'{count_of(len(towers), "tower")}',
            expected='one for each of model.vision.towers, or one directory',
        )
    return {
        f'vision/{i}/': _read_part('vision', Path(place), tower, model_config, f'vision/{i}/', f'vision.towers.{i}.')
        for i, (place, tower) in enumerate(zip(places, towers, strict=True))
    }


def _read_part(
    name: str,
    path: Path,
    part: Mapping[str, Any],
    model_config: Mapping[str, Any],
    prefix: str | None = None,
    ours: str | None = None,
) -> Part:
    """One part of a ``pretrained`` dict; ``part`` is its own config in ``model_config``."""
    prefix, ours = prefix or f'{name}/', ours or f'{name}.'
    if is_user_part(name, part) and not _holds_a_model(path):
        one_file = path.suffix in WEIGHT_SUFFIXES
        found = TensorFiles([path]) if one_file else TensorDirectory(ModelDirectory(path).path)
        return Part({**part}, [Rule(prefix + '{x}', ours + '{x}')], (), unwrapped_tensors(found, path))
    if name == 'llm' and is_gguf(path):
        tensors = GGUFFile(path)
        settings = language_model(tensors.config, str(path))
        return Part(settings, llm_rules(settings, prefix), (), tensors)
    own: dict[str, Any] = {}
    if name == 'projector' and (file := projector_file(path)) is not None:
        own, path = projector_config(path), file  # any other config.json is that of the whole model it belongs to
    if path.suffix in WEIGHT_SUFFIXES:
        tensors = unwrapped_tensors(TensorFiles([path]), path)
        check_not_quantised(tensors, None, path)
        config: dict[str, Any] = {}
    else:
        directory = ModelDirectory(path)
        config = directory.json('config.json')
        if matches_any(config):
            return _of_whole_model(name, directory, prefix)
        tensors = directory.tensors
    where = str(path)
    if name == 'vision' and is_blip2(config):
        return Part(*blip2_tower(config, prefix, ours), tensors)
    if name == 'vision':
        settings = vision_tower(config, where, tensors)
        kind, name = settings['type'], settings.get('model_name')
        if kind == 'TimmBackbone':
            _check_pixels(config['pretrained_cfg'], part, model_config, where)
            asked = part.get('model_name')
            settings['model_name'] = asked if str(asked).split('.')[0] == name else name  # with or without a tag
        return Part(settings, tower_rules(kind, prefix, ours), tower_ignored(kind, prefix, name), tensors)
    if name == 'llm':
        settings = language_model(config, where, family_of(config) or family_of_keys(tensors))
        ignored = tuple(prefix + pattern for pattern in NameTable.ignored)
        return Part(settings, llm_rules(settings, prefix), ignored, tensors)
    kind = model_config['projector']['type']
    ignored = tuple(prefix + p for p in PROJECTOR_IGNORED)
    settings = {'act': own['hidden_act']} if own.get('hidden_act') else {}
    return Part(settings, any_projector_rules(kind, prefix), ignored, without_embeddings(tensors, where))


def is_user_part(name: str, part: Mapping[str, Any]) -> bool:
    """Whether a part is of code that is not mmft's, and no kind of one of mmft's parts, whose files it then reads."""
    kind = _REGISTRIES[name].get(part.get('type'))
    return bool(code_of({'type': part.get('type')})) and not any(map(registered_name, getattr(kind, '__mro__', ())[1:]))


def _holds_a_model(path: Path) -> bool:
    return (path / 'config.json').is_file() and matches_any(ModelDirectory(path).config)


def _check_pixels(
    trained: Mapping[str, Any], tower: Mapping[str, Any], model_config: Mapping[str, Any], where: str
) -> None:
    """Raise ``ConfigError`` where a model normalises pixels differently from the training of its timm backbone."""
    own = dict(zip(('pixel_mean', 'pixel_std'), timm_pixels(tower.get('model_name')), strict=True))
    for key, name in (('pixel_mean', 'mean'), ('pixel_std', 'std')):
        used, theirs = model_config.get(key) or own[key], trained.get(name)
        if theirs and used and not same_value([*used], [*theirs]):
            raise ConfigError(
                f'model.{key} = {[*used]}, but the tower in {where} was trained with {theirs}',
                expected='the same pixels',
                fix=f'set model.{key}={tuple(theirs)}, or name the weights in model_name: '
                f'{tower.get("model_name")}.{trained.get("tag") or "TAG"}',
            )


def _of_whole_model(name: str, directory: ModelDirectory, prefix: str) -> Part:
    """One part of a directory that holds a whole model."""
    layout = layout_of(directory.config, str(directory.path), directory)
    source = layout.open(directory)
    steps = [step for step in layout.to_ours(source) if part_of(step.outputs[0]) == name]
    rules = [
        Rule(tuple(prefix + n for n in rule.side(False)), rule.ours, rule.split, rule.join) for rule in layout.rules
    ]
    tensors = Joined({key: (source, key) for step in steps for key in step.inputs})
    return Part(dict(layout.model_config[name]), rules, (), tensors)
