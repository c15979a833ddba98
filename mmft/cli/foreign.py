"""Configs and scripts of other tools, given where a config of mmft is wanted: what they are, and what to do."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

from mmft.errors import ConfigError
from mmft.words import printable

__all__ = ['foreign_config']

_PACKAGES = {
    'xtuner': 'XTuner', 'llava': 'LLaVA', 'tinyllava': 'TinyLLaVA', 'internvl': 'InternVL', 'swift': 'ms-swift',
    'llamafactory': 'LLaMA-Factory', 'trl': 'TRL',
}  # fmt: skip
_COMMANDS = {
    'xtuner train': 'XTuner', 'tinyllava/train': 'TinyLLaVA', 'llava/train': 'LLaVA', 'internvl/train': 'InternVL',
    'swift sft': 'ms-swift', 'swift rlhf': 'ms-swift', 'swift pt': 'ms-swift', 'llamafactory-cli': 'LLaMA-Factory',
}  # fmt: skip
_KEYS = {
    'LLaMA-Factory': {'finetuning_type', 'dataset_dir', 'cutoff_len', 'template'},
    'ms-swift': {'tuner_type', 'train_type', 'sft_type', 'model_type', 'tuner_backend'},
    'DeepSpeed': {'zero_optimization'},
}
"""Keys that tell whose a file of settings is; one of them is enough where ``model`` is no dict."""


def foreign_config(path: Path) -> ConfigError | None:
    """The error for a file that belongs to another tool; None where nothing says so."""
    try:
        text = path.read_text(encoding='utf-8')
    except (OSError, ValueError):
        return None
    suffix = path.suffix.lower()
    if suffix in ('.sh', '.bash'):
        tool = next((tool for command, tool in _COMMANDS.items() if command in text), None)
        return _error(path, f'a script{f" of {tool}" if tool else ""}', tool)
    if suffix == '.py':
        tool = _imported(text)
        return _error(path, f'a config of {tool}', tool) if tool else None
    tool = _told_by_keys(text, suffix)
    return _error(path, f'a config of {tool}', tool) if tool else None


def _imported(text: str) -> str | None:
    """The tool whose package Python text imports."""
    try:
        nodes = list(ast.walk(ast.parse(text)))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    names = [node.module or '' for node in nodes if isinstance(node, ast.ImportFrom) and not node.level]
    names += [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    return next((_PACKAGES[top] for name in names if (top := name.split('.')[0]) in _PACKAGES), None)


def _told_by_keys(text: str, suffix: str) -> str | None:
    try:
        if suffix == '.json':
            content: Any = json.loads(text)
        elif suffix in ('.yaml', '.yml'):
            import yaml

            content = yaml.safe_load(text)
        else:
            return None
    except Exception:  # reported where it is read as a config
        return None
    if not isinstance(content, dict) or isinstance(content.get('model'), dict):
        return None
    return next((tool for tool, keys in _KEYS.items() if keys & content.keys()), None)


def _error(path: Path, what: str, tool: str | None) -> ConfigError:
    fix = 'docs/migrate.md says where each of its settings goes, `mmft list-cfg` which configs there are to start from'
    if tool == 'DeepSpeed':
        fix = f'pass it beside a config: mmft train CONFIG --deepspeed {printable(path)}'
    elif tool in ('ms-swift', 'LLaMA-Factory', 'TRL'):
        fix = '`mmft list-cfg` lists the configs to start from; adapters of this tool are read: pretrained=, init_from='
    return ConfigError(f'{printable(path)} is {what}', expected='a config of mmft, in Python', fix=fix)
