"""A small tokenizer with Phi-3's special tokens and pipeline, and the chat template published with it."""

from __future__ import annotations

import json
import string
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors

__all__ = ['PHI_3', 'write_phi3']

PHI_3 = (  # tokenizer_config.json of microsoft/Phi-3-mini-4k-instruct, April 2024
    "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') %}{{'<|user|>' + '\n' + "
    "message['content'] + '<|end|>' + '\n' + '<|assistant|>' + '\n'}}{% elif (message['role'] == 'assistant') %}"
    "{{message['content'] + '<|end|>' + '\n'}}{% endif %}{% endfor %}"
)
ROLES = ('<|assistant|>', '<|system|>', '<|end|>', '<|user|>')


def write_phi3(directory: Path, *added: str, **config: str) -> None:
    """Write tokenizer.json and tokenizer_config.json: letters and bytes as tokens, and a few words.

    Args:
        added: further special tokens.
    """
    pieces = ['<unk>', '<s>', '</s>', *(f'<0x{byte:02X}>' for byte in range(256)), *string.printable[:94], '▁']
    words = ['▁W', '▁A', '▁d', 'is', 'at', 'sh']
    vocab = {piece: index for index, piece in enumerate([*pieces, *words])}
    merges = [(word[0], word[1]) for word in words]
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token='<unk>', fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend('▁'), normalizers.Replace(' ', '▁')])
    steps = [decoders.Replace('▁', ' '), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(' ', 1, 0)]
    tokenizer.decoder = decoders.Sequence(steps)
    plain = ['<unk>', '<s>', '</s>', '<|endoftext|>']
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in plain])
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False, rstrip=True) for text in ROLES])
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in added])
    tokenizer.post_processor = processors.TemplateProcessing('<s> $A', '<s> $A <s>:1 $B:1', [('<s>', vocab['<s>'])])
    tokenizer.save(str(directory / 'tokenizer.json'))
    names = {'bos_token': '<s>', 'eos_token': '<|endoftext|>', 'unk_token': '<unk>', 'pad_token': '<|endoftext|>'}
    text = json.dumps({'tokenizer_class': 'LlamaTokenizer', **names, **config})
    (directory / 'tokenizer_config.json').write_text(text)
