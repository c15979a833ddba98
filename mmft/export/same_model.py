"""Whether a config describes the model that a checkpoint was trained with, told without running the stored config."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any

from mmft.errors import CheckpointError

__all__ = ['check_trained_model', 'literal_assignment']

# Settings of training or of the machine: the same weights mean the same model whatever they say.
_FREE = {
    'drop_path_rate', 'dropout', 'attention_dropout', 'gradient_checkpointing', 'attn_implementation', 'resid_pdrop',
    'embd_pdrop', 'initializer_factor', 'initializer_range', 'use_cache', 'image_token_id', 'balance_coef',
    'frozen_qformer',
}  # fmt: skip


def literal_assignment(text: str, name: str) -> Any:
    """The value of ``name = ...`` in Python text, read as data; None where it is absent or more than literals.

    >>> literal_assignment("model = dict(llm=dict(type='Llama', n=-1))", 'model')
    {'llm': {'type': 'Llama', 'n': -1}}
    """
    try:
        for node in ast.parse(text).body:
            if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in node.targets):
                return _value(node.value)
    except (SyntaxError, ValueError):
        pass
    return None


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == 'dict' and not node.args:
        return {keyword.arg: _value(keyword.value) for keyword in node.keywords}
    if isinstance(node, ast.Dict):
        return {_value(key): _value(value) for key, value in zip(node.keys, node.values, strict=True)}
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_value(item) for item in node.elts]
    return ast.literal_eval(node)


def check_trained_model(model_config: Mapping[str, Any], meta: Mapping[str, Any], where: str) -> None:
    """Raise ``CheckpointError`` where the config's model is another one than the checkpoint's, even in a head count."""
    trained = literal_assignment(meta.get('config') or '', 'model')
    if not isinstance(trained, dict):
        return
    differences = list(_differences(trained, model_config, 'model'))
    if differences:
        raise CheckpointError(
            f'{where} was trained with another model than the config describes:\n  ' + '\n  '.join(differences[:10]),
            expected='the config of that training',
            fix='take the config from the work_dir of the checkpoint',
        )


def _differences(trained: Any, given: Any, name: str):
    if isinstance(trained, Mapping) and isinstance(given, Mapping):
        for key in sorted({*trained, *given} - _FREE):
            yield from _differences(trained.get(key), given.get(key), f'{name}.{key}')
    elif (list(given) if isinstance(given, tuple) else given) != trained:
        yield f'{name}: {trained!r} in training, {given!r} in the config'
