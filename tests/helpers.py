"""What several test files share: golden cases and small models."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import torch
from safetensors.torch import load

GOLDEN = Path(__file__).parent / 'golden'

INTERNVL_CASES = sorted(path.parent.name for path in GOLDEN.glob('internvl2_*/model.safetensors'))


def golden_names(case: str, pattern: str) -> list[str]:
    """Names of a golden case's files, sorted, without the ``.gz`` that large ones end with."""
    files = [path for end in ('', '.gz') for path in (GOLDEN / case).glob(pattern + end)]
    return sorted(path.name.removesuffix('.gz') for path in files)


def golden_bytes(case: str, name: str) -> bytes:
    """A file of a golden case; what only tests read is packed, what mmft reads itself is not."""
    path = GOLDEN / case / name
    return path.read_bytes() if path.exists() else gzip.decompress(path.with_name(f'{name}.gz').read_bytes())


def golden_json(case: str, name: str) -> dict:
    """A JSON file of a golden case."""
    return json.loads(golden_bytes(case, name))


def golden_tensors(case: str, name: str) -> dict[str, torch.Tensor]:
    """Inputs or outputs of a golden case; float16 storage holds exact values and is widened."""
    tensors = load(golden_bytes(case, f'{name}.safetensors'))
    return {key: value.float() if value.dtype == torch.float16 else value for key, value in tensors.items()}
