"""What several test files share: golden cases and small models."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file

GOLDEN = Path(__file__).parent / 'golden'

INTERNVL_CASES = sorted(path.parent.name for path in GOLDEN.glob('internvl2_*/model.safetensors'))


def golden_json(case: str, name: str) -> dict:
    """A JSON file of a golden case."""
    return json.loads((GOLDEN / case / name).read_text(encoding='utf-8'))


def golden_tensors(case: str, name: str) -> dict[str, torch.Tensor]:
    """Inputs or outputs of a golden case; float16 storage holds exact values and is widened."""
    tensors = load_file(GOLDEN / case / f'{name}.safetensors')
    return {key: value.float() if value.dtype == torch.float16 else value for key, value in tensors.items()}
