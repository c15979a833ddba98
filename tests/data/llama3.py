"""A small tokenizer with Llama 3's special tokens and post-processor, and the chat template published with it."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

__all__ = ['LLAMA_3', 'write_llama3']

LLAMA_3 = (  # tokenizer_config.json of meta-llama/Meta-Llama-3-8B-Instruct
    "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '<|start_header_id|>' + "
    "message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}"
    '{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}{% if add_generation_prompt %}'
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
SPECIAL = ('<|begin_of_text|>', '<|end_of_text|>', '<|start_header_id|>', '<|end_header_id|>', '<|eot_id|>')


def write_llama3(directory: Path, *added: str, **config: str) -> None:
    """Write tokenizer.json and tokenizer_config.json: bytes as tokens.

    Args:
        added: special tokens beyond Meta's; those of llava-hf's form where none is named.
    """
    letters = {char: index for index, char in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=letters, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = (*SPECIAL, *(added or ('<image>', '<pad>')))
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in special])
    begin, number = SPECIAL[0], tokenizer.token_to_id(SPECIAL[0])
    begins = processors.TemplateProcessing(f'{begin} $A', f'{begin} $A {begin}:1 $B:1', [(begin, number)])
    tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), begins])
    tokenizer.save(str(directory / 'tokenizer.json'))
    names = {'bos_token': SPECIAL[0], 'eos_token': '<|end_of_text|>', **config}
    if '<pad>' in special:
        names = {'pad_token': '<pad>', **names}
    text = json.dumps({'tokenizer_class': 'PreTrainedTokenizerFast', **names})
    (directory / 'tokenizer_config.json').write_text(text)
