"""Whether a config describes the model that a checkpoint was trained with, found without running the stored config."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from mmft.checkpoint.silent_settings import same_value
from mmft.errors import CheckpointError

__all__ = ['check_trained_model', 'literal_config']

# Settings of training or of the machine: the same weights mean the same model whatever they say.
_FREE = {
    'drop_path_rate', 'dropout', 'attention_dropout', 'gradient_checkpointing', 'attn_implementation', 'resid_pdrop',
    'embd_pdrop', 'initializer_factor', 'initializer_range', 'use_cache', 'image_token_id', 'balance_coef',
    'frozen_qformer',
}  # fmt: skip


def literal_config(text: str) -> dict[str, Any]:
    r"""What Python text assigns to names, read as data; what is more than literals is left out.

    >>> literal_config("model = dict(llm=dict(type='Llama', n=-1))\nlr = 2 * base_lr")
    {'model': {'llm': {'type': 'Llama', 'n': -1}}}
    """
    try:
        body = ast.parse(text).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return {}
    found = {}
    for node in body:
        if isinstance(node, ast.Assign):
            with suppress(ValueError, TypeError, RecursionError):
                value = _value(node.value)
                found |= {target.id: value for target in node.targets if isinstance(target, ast.Name)}
    return found


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == 'dict' and not node.args:
        return {_key(keyword.arg): _value(keyword.value) for keyword in node.keywords}
    if isinstance(node, ast.Dict):
        return {_key(key): _value(value) for key, value in zip(node.keys, node.values, strict=True)}
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_value(item) for item in node.elts]
    return ast.literal_eval(node)


def _key(given: ast.expr | str | None) -> str:
    key = given.value if isinstance(given, ast.Constant) else given
    if not isinstance(key, str):  # None: of ** in a dict
        raise ValueError('the settings of a part have names')
    return key


def check_trained_model(model_config: Mapping[str, Any], meta: Mapping[str, Any], where: str) -> None:
    """Raise ``CheckpointError`` where the config's model is another one than the checkpoint's, even in a head count."""
    trained = literal_config(meta.get('config') or '').get('model')
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
    elif name.endswith('.type') and str(trained).endswith(f'.{given}'):
        return  # mmft 0.1 kept a class as module and name
    elif not same_value(given, trained):
        yield f'{name}: {trained!r} in training, {given!r} in the config'
