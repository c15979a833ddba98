"""Names of tensors in files of other tools: what training wrappers put around a name is taken off, in this one place.

DataParallel and DeepSpeed write ``module.`` before every name, ``torch.compile`` and FSDP a component of their own in
the middle, PEFT ``base_model.model.``; LLaVA's own code nests its model once more on the way out.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterator

from mmft.errors import CheckpointError
from mmft.files.tensors import Joined, TensorSource

__all__ = ['UNTRAINED', 'file_names', 'module_name', 'unwrapped', 'unwrapped_tensors']

_WRAPPERS = re.compile(
    r'(?<![^.])(?:base_model\.model|_orig_mod|_forward_module|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.'
)
_FRONT = re.compile(r'^(?:module\.)*(?:(?:model\.)+(?=model\.))?')
_INSIDE = re.compile(r'\.(?:modules_to_save(?:\.default)?|base_layer)\.')
UNTRAINED = '.original_module.'
"""What PEFT keeps beside ``modules_to_save``: the values before training."""

_MODULES = (
    # Names in weight files, and of modules inside transformers' classes: of 5, of 4.52 and later, of older ones.
    ('language_model.model.', 'model.language_model.'),
    ('language_model.lm_head.', 'lm_head.'),
    ('vision_tower.vision_model.', 'model.vision_tower.', 'model.vision_tower.vision_model.'),
    ('vision_tower.', 'model.vision_tower.'),
    ('multi_modal_projector.', 'model.multi_modal_projector.'),
    ('image_newline', 'model.image_newline'),
)
_DINOV2 = {
    '.attention.attention.query.': '.attention.q_proj.',
    '.attention.attention.key.': '.attention.k_proj.',
    '.attention.attention.value.': '.attention.v_proj.',
    '.attention.output.dense.': '.attention.o_proj.',
}


def unwrapped(name: str) -> str:
    """A name without what wrappers of a training put around it.

    >>> unwrapped('module.base_model.model.model.mm_projector.0.weight')
    'model.mm_projector.0.weight'
    >>> unwrapped('language_model.base_model.model.model.norm.modules_to_save.default.weight')
    'language_model.model.norm.weight'
    """
    outside = _FRONT.sub('', _WRAPPERS.sub('', name))
    # A part may have a base_layer or modules_to_save of its own: they are PEFT's where its wrapper is around them.
    return _INSIDE.sub('.', outside) if outside != name else name


def unwrapped_tensors(tensors: TensorSource, where: object) -> TensorSource:
    """The tensors under their plain names; ``tensors`` itself where all names are plain.

    Raises:
        CheckpointError: two tensors come to the same name.
    """
    names: dict[str, str] = {}
    for key in tensors:
        if UNTRAINED in key and unwrapped(key) != key:
            continue
        if (other := names.setdefault(unwrapped(key), key)) != key:
            raise CheckpointError(
                f'{where} holds {unwrapped(key)} twice: as {other} and as {key}',
                expected='each tensor once',
                fix='keep one of the two: nothing says which of them was trained',
            )
    if all(name == key for name, key in names.items()) and len(names) == len(tensors):
        return tensors
    return Joined({name: (tensors, key) for name, key in names.items()})


def module_name(key: str) -> str:
    """A name in HF-native weight files -> the parameter's name inside the model of transformers 5.

    >>> module_name('language_model.model.norm.weight')
    'model.language_model.norm.weight'
    """
    for theirs, own in _DINOV2.items():
        key = key.replace(theirs, own)
    for prefix, name, *_ in _MODULES:
        if key.startswith(prefix):
            return name + key.removeprefix(prefix)
    raise ValueError(key)


def file_names(name: str, held: Container[str]) -> list[str]:
    """The names in weight files, of those ``held``, that ``name`` inside a model of transformers may stand for."""
    return [key for key in dict.fromkeys(_spellings(name)) if key in held]


def _spellings(name: str) -> Iterator[str]:
    yield name
    for group in _MODULES:
        for prefix in group:
            if name.startswith(prefix):
                yield from (other + name.removeprefix(prefix) for other in group)
    for theirs, own in _DINOV2.items():
        if own in name:
            yield from _spellings(name.replace(own, theirs))
