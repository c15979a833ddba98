"""Pictures and prompts of LLaVA's directories: the image processor that a config describes, and the chat template.

Sources: ``llava/mm_utils.py`` and ``llava/conversation.py`` of haotian-liu/LLaVA.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mmft.errors import CheckpointError
from mmft.file_names import TOKEN_FILES
from mmft.models.language.family import families

__all__ = ['ANYRES_MAX', 'image_processor', 'llava_encoder', 'shrinking', 'unpadded']

ANYRES_MAX = 'anyres_max_'
"""How the names begin that say to how many tiles' tokens a large picture is shrunk."""


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
    files = [Path(directory) / name for name in TOKEN_FILES] if directory is not None and family.dialects else []
    text = '\n'.join(file.read_text(encoding='utf-8', errors='replace') for file in files if file.is_file())
    spoken = (templates for token, templates in family.dialects.items() if token in text)
    return next(spoken, (family.template, family.template))[bool(model.get('merge'))]


def unpadded(tower: str) -> str:
    """What becomes of a picture that is neither padded nor tiled: SigLIP's own processor stretches it, CLIP's crops."""
    return 'Resize' if tower == 'SigLIP' else 'CenterCrop'


def shrinking(aspect: Any) -> int:
    """``shrink_to`` of LLaVA-OneVision's name for how it arranges pictures.

    Args:
        aspect: ``image_aspect_ratio``, or transformers' ``vision_aspect_ratio``.

    >>> shrinking('anyres_max_9')
    9
    """
    if not (match := re.fullmatch(rf'{ANYRES_MAX}([1-9]\d*)', str(aspect))):
        raise CheckpointError(
            f'config.json: pictures are arranged as {aspect!r}', expected=f"'{ANYRES_MAX}9', or another number"
        )
    return int(match[1])


def image_processor(options: dict[str, Any], model: dict[str, Any]) -> dict[str, Any]:
    """The image processor of a LLaVA config.

    Args:
        options: ``image_aspect_ratio`` (``pad``, ``anyres``, ``anyres_max_9`` or what the tower's own processor does)
            and ``image_grid_pinpoints``.
    """
    side, kind = model['vision'].get('image_size', 336), options.get('image_aspect_ratio')
    if kind == 'pad':
        return {'type': 'PadSquare', 'tile_size': side, 'mean': list(model.get('pixel_mean', (0.5, 0.5, 0.5)))}
    pairs = options.get('image_grid_pinpoints')  # (width, height); text in older files
    if str(kind).startswith('anyres_'):
        mean = list(model.get('pixel_mean', (0.5, 0.5, 0.5)))
        return {'type': 'OneVisionTiler', 'grid_pinpoints': pairs, 'tile_size': side, 'shrink_to': shrinking(kind),
                'mean': mean}  # fmt: skip
    if kind == 'anyres':
        mode = options.get('mm_patch_merge_type') or 'flat'
        return {'type': 'AnyResTiler', 'grid_pinpoints': pairs, 'tile_size': side, 'mode': mode}
    return {'type': unpadded(model['vision']['type']), 'tile_size': side}
