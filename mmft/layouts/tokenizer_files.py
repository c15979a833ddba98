"""The tokenizer's files as programs that know nothing of mmft should read them.

Such programs drop every token that is marked special from answers, pad on the side that the files name, and tokenize a
prompt with whatever the tokenizer appends. So here only tokens that are never text of an answer are special, padding is
on the left, and nothing follows a prompt. Token ids stay the same.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmft.json_files import read_json, write_json

if TYPE_CHECKING:
    from mmft.data.encoder import ChatEncoder

__all__ = ['served_tokenizer', 'served_tokenizer_config', 'write_tokenizer']


def write_tokenizer(directory: Path, encoder: ChatEncoder, **config: Any) -> None:
    """Rewrite the tokenizer's files that ``encoder.save_pretrained`` wrote into a directory.

    Args:
        config: further entries of tokenizer_config.json.
    """
    for name, change in (('tokenizer.json', served_tokenizer), ('tokenizer_config.json', served_tokenizer_config)):
        content = change(read_json(directory / name), encoder)
        if name == 'tokenizer_config.json':
            content |= config
            # One place for the template: transformers and LMDeploy read chat_template.jinja, and prefer it.
            content.pop('chat_template', None)
        write_json(directory / name, content)


def served_tokenizer(content: dict[str, Any], encoder: ChatEncoder) -> dict[str, Any]:
    """``tokenizer.json``: tags such as ``<ref>`` are text, and no end token is appended to a prompt."""
    kept = []
    for token in content.get('added_tokens') or ():
        token['special'] = token['special'] and token['id'] in encoder.control_ids
        kept += [token['content']] if token['id'] not in encoder.control_ids else []
    content['post_processor'] = _nothing_appended(content.get('post_processor'))
    if encoder.spaced and (content.get('decoder') or {}).get('type') == 'Sequence':
        content['decoder']['decoders'] = _unspaced(content['decoder']['decoders'], kept)
    return content


def served_tokenizer_config(content: dict[str, Any], encoder: ChatEncoder) -> dict[str, Any]:
    """``tokenizer_config.json``: the same tokens as special, padding on the left, as a batch of prompts needs it."""
    vocab, made = encoder.tokenizer.get_added_vocab(), {**content, 'padding_side': 'left'}
    if made.get('add_eos_token'):
        made['add_eos_token'] = False
    for key in ('additional_special_tokens', 'extra_special_tokens'):
        if isinstance(tokens := made.get(key), list):
            made[key] = [token for token in tokens if vocab.get(_text(token)) in encoder.control_ids]
    for index, token in (made.get('added_tokens_decoder') or {}).items():
        token['special'] = bool(token.get('special')) and int(index) in encoder.control_ids
    return made


def _text(token: Any) -> str:
    return token.get('content', '') if isinstance(token, dict) else token


def _nothing_appended(processor: dict[str, Any] | None) -> dict[str, Any] | None:
    """The post-processor without the tokens that it writes after a text."""
    kind = (processor or {}).get('type')
    if kind == 'Sequence':
        return processor | {'processors': [_nothing_appended(part) for part in processor['processors']]}
    if kind != 'TemplateProcessing':
        return processor
    made = dict(processor)
    for form in ('single', 'pair'):
        parts = list(made[form])
        while parts and 'SpecialToken' in parts[-1]:
            parts.pop()
        made[form] = parts
    return made


def _unspaced(decoders: list[dict[str, Any]], tokens: list[str]) -> list[dict[str, Any]]:
    """Decoders that also take away the space which the tokenizer itself writes after an added token."""
    fused = next((place for place, step in enumerate(decoders, 1) if step['type'] == 'Fuse'), None)
    if fused is None:
        return decoders
    steps = [{'type': 'Replace', 'pattern': {'String': token + ' '}, 'content': token} for token in tokens]
    new = [step for step in steps if step not in decoders]  # an export that is exported again has them
    return [*decoders[:fused], *new, *decoders[fused:]]
