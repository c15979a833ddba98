"""Names of the small files in model directories that several rooms look for, each in this one place."""

from __future__ import annotations

__all__ = ['ADAPTER_CONFIG', 'ENCODER_FILE', 'PROCESSOR_FILES', 'TEMPLATE_FILES', 'TOKENIZER_FILES', 'TOKEN_FILES']

ADAPTER_CONFIG = 'adapter_config.json'
"""PEFT's, beside a LoRA adapter."""

ENCODER_FILE = 'encoder.json'
"""What ``ChatEncoder.save_pretrained`` writes beside the tokenizer's files: the encoder as it was in training."""

PROCESSOR_FILES = ('processor_config.json', 'preprocessor_config.json')
"""transformers' own, of which the first may hold the second."""

TEMPLATE_FILES = ('chat_template.jinja', 'chat_template.json', 'processor_config.json', 'tokenizer_config.json')
"""Where a directory keeps its chat template; transformers and LMDeploy prefer them in this order."""

TOKENIZER_FILES = ('tokenizer.json', 'tokenizer.model', 'vocab.json')
"""A directory with one of these holds a tokenizer."""

TOKEN_FILES = ('added_tokens.json', 'tokenizer_config.json', 'tokenizer.json')
"""Where the texts of added tokens stand."""
