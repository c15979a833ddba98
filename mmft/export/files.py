"""The small files around the weights that both layouts share: tokenizer, generation config, mmft's own manifest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmft.data.encoder import ChatEncoder

__all__ = ['generation_config', 'llm_ids', 'write_encoder', 'write_json']


def write_json(path: Path, content: Any) -> None:
    """A JSON file as people read it."""
    path.write_text(json.dumps(content, ensure_ascii=False, indent=2) + '\n', encoding='utf-8')


def llm_ids(llm: dict[str, Any], encoder: ChatEncoder | None) -> dict[str, int | None]:
    """``bos_token_id``, ``eos_token_id`` and ``pad_token_id``: the config's, completed from the tokenizer."""
    ids = {}
    for name in ('bos_token_id', 'eos_token_id', 'pad_token_id'):
        value = llm.get(name)
        ids[name] = getattr(encoder.tokenizer, name) if value is None and encoder is not None else value
    return ids


def generation_config(ids: dict[str, int | None], encoder: ChatEncoder | None) -> dict[str, Any]:
    """Greedy decoding that stops where the template's answers end."""
    stop = encoder.stop_token_ids if encoder is not None else ids['eos_token_id']
    pad = encoder.pad_token_id if encoder is not None else ids['pad_token_id']
    config = {'bos_token_id': ids['bos_token_id'], 'eos_token_id': stop, 'pad_token_id': pad, 'do_sample': False}
    return {name: value for name, value in config.items() if value is not None}


def write_encoder(directory: Path, encoder: ChatEncoder, special_tokens: dict[str, str], image: str) -> None:
    """The tokenizer, its chat template and ``encoder.json``, from which ``mmft.load`` restores the encoder.

    Args:
        special_tokens: names under which the layout's processor looks up tokens of its own.
        image: what stands for a picture in the chat template.
    """
    encoder.save_pretrained(directory)
    path = directory / 'tokenizer_config.json'
    config = json.loads(path.read_text(encoding='utf-8'))
    # One place for the template: transformers and LMDeploy read the .jinja file, and prefer it.
    config.pop('chat_template', None)
    if special_tokens:
        config['extra_special_tokens'] = special_tokens
    write_json(path, config)
    (directory / 'chat_template.jinja').write_text(encoder.chat_template(image), encoding='utf-8')
