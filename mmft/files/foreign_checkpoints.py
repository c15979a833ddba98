"""Checkpoints of other trainings: what they are, and their content with every foreign object in it left out."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmft.errors import CheckpointError, first_line

__all__ = ['STATES', 'foreign_content', 'foreign_training', 'is_deepspeed', 'is_mmengines', 'of_mmengine', 'of_xtuner',
           'xtuner_folders']  # fmt: skip

STATES = 'mp_rank_00_model_states.pt'
_SHARDS = 'zero_pp_rank_*_model_states.pt'


class _Left:
    """Stands for every object of another program in a file, such as mmengine's logs: nothing of it is built."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def is_deepspeed(path: Path) -> bool:
    """Whether a folder is a checkpoint of DeepSpeed."""
    return (path / STATES).is_file() or any(path.glob(_SHARDS))


def foreign_training(path: Path) -> CheckpointError | None:
    """The error for a checkpoint of another program where one of mmft's is wanted; None where it is not one."""
    if is_deepspeed(path):
        return of_xtuner(path, 'a checkpoint folder of DeepSpeed, as XTuner and other trainers write it')
    if (path / 'trainer_state.json').is_file():
        return CheckpointError(
            f"{path} is a checkpoint of transformers' Trainer (LLaVA, ms-swift, LLaMA-Factory...)",
            expected='a checkpoint of mmft',
            fix=f"start from its weights: pretrained='{path}', or init_from='{path}' over the base; its optimizer "
            'cannot be continued',
        )
    return of_xtuner(path) if of_mmengine(path) is not None else xtuner_folders(path)


def xtuner_folders(path: Path) -> CheckpointError | None:
    """The error for a LLaVA as XTuner's converter writes and publishes it, a folder for each part; None of any other.

    Source: ``LLaVAModel.to_xtuner_llava`` of InternLM/xtuner 0.1.23.
    """
    if not (path / 'projector' / 'config.json').is_file():
        return None
    places = {
        'llm': [path / 'llm_adapter', path],
        'vision': [path / 'visual_encoder', path / 'visual_encoder_adapter'],
        'projector': [path / 'projector'],
    }
    files, unknown = ('config.json', 'adapter_config.json'), {'llm': 'language model', 'vision': 'vision tower'}
    parts = []
    for part, folders in places.items():
        found = next((str(place) for place in folders if any((place / name).is_file() for name in files)), None)
        parts.append(f'{part}={f"the {unknown[part]} that it was trained with" if found is None else repr(found)}')
    return CheckpointError(
        f'{path} is a LLaVA of XTuner, a folder for each part',
        expected='one directory for each part, in a config whose `model` joins them',
        fix=f'pretrained=dict({", ".join(parts)}); `mmft pth_to_hf CONFIG none OUT` then writes one directory',
    )


def of_xtuner(
    path: Path, what: str = 'a checkpoint of XTuner, or of another program that uses mmengine'
) -> CheckpointError:
    """The error for a checkpoint of XTuner where one of mmft's is wanted."""
    return CheckpointError(
        f'{path} is {what}',
        expected='a checkpoint of mmft',
        fix=f"take its weights into a config of mmft, init_from='{path}'; `mmft pth_to_hf CONFIG none OUT` then writes "
        'them as a model directory. Its optimizer cannot be continued',
    )


def is_mmengines(content: Any) -> bool:
    """Whether this is what mmengine's runner saves for another program than mmft."""
    meta = content.get('meta') if isinstance(content, Mapping) else None
    foreign = isinstance(meta, Mapping) and 'tune' not in meta and 'mmengine_version' in meta
    return foreign and isinstance(content.get('state_dict'), Mapping)


def foreign_content(path: Path) -> Any:
    """What ``torch.save`` wrote; objects of other programs in it are left out. Nothing of them is imported or run."""
    import torch
    from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

    try:
        names = get_unsafe_globals_in_checkpoint(path)
        with safe_globals([(_Left, name) for name in names]):
            return torch.load(path, 'cpu', weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # whatever damage makes of a file
        reason = first_line(error)
        raise CheckpointError(
            f'{path} cannot be read: {"it wants to run code" if "eights only" in reason else reason}',
            expected='a whole file of torch.save, with tensors and plain values',
            fix='copy it again',
        ) from error


def of_mmengine(path: Path) -> Mapping[str, Any] | None:
    """The content of a checkpoint that mmengine wrote for another program than mmft; None of any other file."""
    try:
        content = foreign_content(path) if path.is_file() and path.suffix in ('.pth', '.pt') else None
    except CheckpointError:
        return None
    return content if is_mmengines(content) else None
