"""What one stage of the originals' trainings leaves: TinyLLaVA Factory's three folders, LLaVA's projector alone.

TinyLLaVA Factory's alignment and every LoRA run of it write ``language_model/``, ``vision_tower/`` and ``connector/``,
each with a ``pytorch_model.bin``, beside ``config.json``; LLaVA's first stage writes ``config.json`` and
``mm_projector.bin`` and leaves the rest where it was; XTuner writes ``projector/`` with a ``config.json`` of its own.

Sources: ``training_recipe/{base,lora_recipe,qlora_recipe}.py`` and ``model/load_model.py`` of
TinyLLaVA/TinyLLaVA_Factory; ``llava/train/train.py`` and ``llava/model/builder.py`` of haotian-liu/LLaVA.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmft.errors import CheckpointError
from mmft.files.tensor_names import unwrapped_tensors
from mmft.files.tensors import WEIGHT_FILES, Joined, TensorDirectory, TensorFiles, TensorSource, has_weights
from mmft.json_files import read_json
from mmft.words import clipped, count_of

__all__ = ['check_not_quantised', 'folder_tensors', 'has_folders', 'over_base', 'projector_alone', 'projector_config',
           'projector_file', 'without_embeddings']  # fmt: skip

logger = logging.getLogger(__name__)

_PROJECTOR = 'mm_projector.bin'
_FOLDERS = {
    'language_model': 'language_model.', 'vision_tower': 'vision_tower._vision_tower.', 'connector': 'connector.',
}  # fmt: skip
"""TinyLLaVA Factory's folders, and what stands before their tensors in its whole model."""
_TABLE = re.compile(r'(?:model\.)*(?:embed_tokens|embed_in)\.weight')


def has_folders(path: Path) -> bool:
    """Whether a directory without weights of its own holds TinyLLaVA Factory's folders."""
    # The language model's folder decides: a vision_tower/ may be anyone's, and a connector/ alone is a projector.
    return not has_weights(path) and has_weights(path / 'language_model')


def projector_file(folder: Path) -> Path | None:
    """The file of a directory that holds a projector and no language model; None where there is none."""
    if (folder / _PROJECTOR).is_file():
        return folder / _PROJECTOR
    # TinyLLaVA Factory's: its run without the other folders, or connector/ itself, which has no config.json. XTuner's
    # has one of its own.
    places = [] if has_folders(folder) or has_weights(folder) else [folder / 'connector']
    places += [] if (folder / 'config.json').is_file() and not projector_config(folder) else [folder]
    files = (place / name for place in places for name in WEIGHT_FILES)
    return next((file for file in files if file.is_file()), None)


def projector_config(folder: Path) -> dict[str, Any]:
    """``config.json`` of a directory that says it is XTuner's projector; {} of any other."""
    config = read_json(folder / 'config.json', optional=True)
    return config if config.get('model_type') == 'projector' else {}


def folder_tensors(path: Path) -> TensorSource:
    """The tensors of TinyLLaVA Factory's folders under the names of the whole model.

    Raises:
        CheckpointError: a folder is missing, or holds quantised weights.
    """
    if missing := [name for name in _FOLDERS if not has_weights(path / name)]:
        raise CheckpointError(
            f'{path} holds language_model/, but no weights in {", ".join(f"{name}/" for name in missing)}',
            expected=f'{", ".join(f"{name}/pytorch_model.bin" for name in _FOLDERS)}',
            fix='copy the missing folders of the run into it',
        )
    places = {}
    for name, prefix in _FOLDERS.items():
        source = unwrapped_tensors(TensorDirectory(path / name), path / name)
        # A LoRA run wraps the layers that it adapts; the adapters themselves are in a file of their own.
        places |= {prefix + key.replace('.base_layer.', '.'): (source, key) for key in source}
    found = Joined(places)
    packed = [key for key in found if not found.meta(key)[0].is_floating_point]
    if packed:
        raise CheckpointError(
            f'{path}: {count_of(len(packed), "quantised weight")}, such as {packed[0]} ({found.meta(packed[0])[0]})',
            expected='16 or 32 bit: this seems to be a QLoRA run',
            fix="merge it with TinyLLaVA Factory's own code, and load what that saves",
        )
    return found


def check_not_quantised(tensors: TensorSource, method: object, where: object) -> None:
    """Refuse weights in 8 or 4 bits: bitsandbytes', GPTQ's, AWQ's, fp8.

    Args:
        method: ``quantization_config`` of ``config.json``, for the message.

    Raises:
        CheckpointError: names one of them.
    """
    one_byte = (key for key in tensors if key.endswith('weight') and tensors.meta(key)[0].itemsize == 1)
    packed = [*one_byte, *(key for key in tensors if key.endswith('.qweight') and tensors.meta(key)[0].itemsize > 1)]
    if packed:
        named = method.get('quant_method') if isinstance(method, Mapping) else None
        raise CheckpointError(
            f'{where}: {count_of(len(packed), "weight")} {"is" if len(packed) == 1 else "are"} quantised'
            f'{f" ({clipped(named)})" if named else ""}, such as {packed[0]} ({tensors.meta(packed[0])[0]})',
            expected='weights in 16 or 32 bits',
            fix="download the model that this one was quantised from; tune.llm='qlora' quantises it by itself",
        )


def projector_alone(path: Path) -> bool:
    """Whether a model's directory holds LLaVA's projector and no other weights."""
    return (path / _PROJECTOR).is_file() and not has_weights(path)


def over_base(path: Path, base: TensorSource | None) -> TensorSource:
    """LLaVA's ``mm_projector.bin`` over the weights that it was trained on.

    Args:
        path: the directory of the projector.
        base: a language model's tensors, or a LLaVA's, whose projector this one replaces.

    Raises:
        CheckpointError: no base, or one with another vocabulary.
    """
    if base is None:
        raise CheckpointError(
            f'{path} holds a projector alone ({_PROJECTOR})',
            expected='the directory of the language model that it was trained on as well',
            fix='pass that: mmft.load(path, base=...); a config takes it as init_from, or as '
            'pretrained=dict(projector=..., llm=...)',
        )
    own = unwrapped_tensors(TensorFiles([path / _PROJECTOR]), path / _PROJECTOR)
    for key in (key for key in own if key in base and _TABLE.fullmatch(key)):
        if (rows := own.meta(key)[1]) != (there := base.meta(key)[1]):
            raise CheckpointError(
                f'{path / _PROJECTOR}: {key} is {rows}, in the base {there}',
                expected='the base with the tokens that the run added (mm_use_im_start_end)',
                fix='pass a base of that vocabulary, or take the projector alone: '
                'pretrained=dict(projector=..., llm=...)',
            )
    kept = {key: (base, key) for key in base if 'mm_projector.' not in key}
    return Joined({**kept, **{key: (own, key) for key in own}})


def without_embeddings(tensors: TensorSource, where: str | Path) -> TensorSource:
    """The tensors of a projector's file but for the table of token vectors that may lie in it.

    LLaVA's first stage with ``mm_use_im_start_end`` trains the vectors of two tokens and stores the whole table, which
    is another tokenizer's: its rows do not say which tokens they are of.
    """
    tables = [key for key in tensors if _TABLE.fullmatch(key)]
    if not tables:
        return tensors
    shapes = ', '.join(f'{key} {tensors.meta(key)[1]}' for key in tables)
    logger.warning(
        f'{where}: left out {shapes}: the vectors of <im_start> and <im_end> that trained with this projector '
        '(mm_use_im_start_end); where the encoder has such tokens, train them again'
    )
    return Joined({key: (tensors, key) for key in tensors if key not in tables})
