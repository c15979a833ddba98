"""Whether a config describes the model that a checkpoint was trained with."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any

from mmft.checkpoint.silent_settings import same_value
from mmft.errors import CheckpointError

__all__ = ['check_trained_model']

logger = logging.getLogger(__name__)

# Settings of training or of the machine: the same weights mean the same model whatever they say.
_FREE = {
    'drop_path_rate', 'dropout', 'attention_dropout', 'gradient_checkpointing', 'attn_implementation', 'resid_pdrop',
    'embd_pdrop', 'initializer_factor', 'initializer_range', 'use_cache', 'image_token_id', 'balance_coef',
    'frozen_qformer',
}  # fmt: skip
_PLACES = ('encoder.tokenizer',)  # which may have moved


def check_trained_model(
    model_config: Mapping[str, Any],
    encoder: Mapping[str, Any] | None,
    config: Mapping[str, Any],
    where: str,
    tune: Mapping[str, Any] | None = None,
) -> None:
    """Raise ``CheckpointError`` where a config's model differs from the checkpoint's, even in a head count.

    The encoder that is exported is the checkpoint's in any case, and so are the settings of its adapters; a config
    that says something else gets a warning.

    Args:
        model_config, encoder, tune: of the config that the user names.
        config: the one that is stored in the checkpoint.
        where: the checkpoint, for messages.
    """
    for name, given in (('encoder', encoder), ('tune', tune)):
        stored = config.get(name)
        differences = _differences(stored, given, name) if given and isinstance(stored, Mapping) else ()
        changed = [line for line in differences if line.split(':')[0] not in _PLACES]
        if changed:
            logger.warning(f'{where}: its {name} is exported as it was in training:\n  ' + '\n  '.join(changed[:10]))
    trained = config.get('model')
    if not isinstance(trained, Mapping):
        return
    differences = list(_differences(trained, model_config, 'model'))
    if differences:
        raise CheckpointError(
            f'{where} was trained with another model than the config describes:\n  ' + '\n  '.join(differences[:10]),
            expected='the config of that training',
            fix='take the config from the work_dir of the checkpoint, or leave it out: the checkpoint holds its own',
        )


def _differences(trained: Any, given: Any, name: str) -> Iterator[str]:
    if isinstance(trained, Mapping) and isinstance(given, Mapping):
        for key in sorted({*trained, *given} - _FREE):
            yield from _differences(trained.get(key), given.get(key), f'{name}.{key}')
    elif not same_value(given, trained):
        yield f'{name}: {trained!r} in training, {given!r} in the config'
