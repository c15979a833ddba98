"""Published LLaVAs in their several forms: the options that a base config names for a form fit it."""

from __future__ import annotations

import ast
import re

import pytest

from mmft.checkpoint.build import build_meta
from mmft.checkpoint.silent_settings import check_same
from mmft.cli.configs import load_config
from mmft.layouts import layout_of
from mmft.models.buffers import tensors_of
from tests.configs.shrink import ROOT

LLAVA = {
    'architectures': ['LlavaLlamaForCausalLM'], 'mm_vision_tower': 'openai/clip-vit-large-patch14-336',
    'mm_hidden_size': 1024, 'mm_projector_type': 'mlp2x_gelu', 'mm_vision_select_layer': -2,
    'mm_vision_select_feature': 'patch', 'mm_use_im_start_end': False, 'mm_use_im_patch_token': False,
    'image_aspect_ratio': 'pad', 'use_mm_proj': True, 'hidden_act': 'silu', 'tie_word_embeddings': False,
    'rms_norm_eps': 1e-05, 'rope_scaling': None, 'torch_dtype': 'float16',
}  # fmt: skip
"""What their ``config.json`` in LLaVA's own form have in common, as far as it describes the model."""

VICUNA = {
    'model_type': 'llava', 'bos_token_id': 1, 'eos_token_id': 2, 'pad_token_id': 0, 'hidden_size': 4096,
    'intermediate_size': 11008, 'num_hidden_layers': 32, 'num_attention_heads': 32, 'num_key_value_heads': 32,
    'max_position_embeddings': 4096, 'vocab_size': 32000,
}  # fmt: skip
LARGER = {'hidden_size': 5120, 'intermediate_size': 13824, 'num_hidden_layers': 40, 'num_attention_heads': 40,
          'num_key_value_heads': 40}  # fmt: skip
LLAMA_3 = {
    'model_type': 'llava_llama', 'bos_token_id': 128000, 'eos_token_id': 128001, 'hidden_size': 4096,
    'intermediate_size': 14336, 'num_hidden_layers': 32, 'num_attention_heads': 32, 'num_key_value_heads': 8,
    'max_position_embeddings': 8192, 'rope_theta': 500000.0, 'vocab_size': 128256,
}  # fmt: skip
PHI_3 = {
    'model_type': 'llava_llama', 'bos_token_id': 1, 'eos_token_id': 32000, 'pad_token_id': 32000, 'hidden_size': 3072,
    'intermediate_size': 8192, 'num_hidden_layers': 32, 'num_attention_heads': 32, 'num_key_value_heads': 32,
    'max_position_embeddings': 4096, 'original_max_position_embeddings': 4096, 'sliding_window': 2047,
    'rope_theta': 10000.0, 'vocab_size': 32064,
}  # fmt: skip
# Those for transformers leave out what is the default of its classes.
XTUNER_HF = {
    'architectures': ['LlavaForConditionalGeneration'], 'model_type': 'llava', 'ignore_index': -100,
    'projector_hidden_act': 'gelu', 'vision_feature_layer': -2, 'vision_feature_select_strategy': 'default',
    'torch_dtype': 'float16', 'vision_config': {
        'architectures': ['CLIPVisionModel'], 'dropout': 0.0, 'hidden_size': 1024, 'image_size': 336,
        'intermediate_size': 4096, 'model_type': 'clip_vision_model', 'num_attention_heads': 16,
        'num_hidden_layers': 24, 'patch_size': 14, 'projection_dim': 768, 'torch_dtype': 'float32',
    },
}  # fmt: skip
LLAMA_3_HF = {
    **XTUNER_HF, 'image_token_index': 128257, 'pad_token_id': 128258, 'text_config': {
        'architectures': ['LlamaForCausalLM'], 'bos_token_id': 128000, 'eos_token_id': 128001,
        'intermediate_size': 14336, 'max_position_embeddings': 8192, 'model_type': 'llama', 'num_key_value_heads': 8,
        'rms_norm_eps': 1e-05, 'rope_theta': 500000.0, 'torch_dtype': 'float16', 'vocab_size': 128320,
    },
}  # fmt: skip
PHI_3_HF = {
    **XTUNER_HF, 'image_token_index': 32038, 'pad_token_id': 32039, 'text_config': {
        'architectures': ['LlamaForCausalLM'], 'bos_token_id': 1, 'eos_token_id': 32000, 'hidden_size': 3072,
        'intermediate_size': 8192, 'max_position_embeddings': 4096, 'model_type': 'llama', 'num_key_value_heads': 32,
        'original_max_position_embeddings': 4096, 'pad_token_id': 32000, 'rms_norm_eps': 1e-05,
        'sliding_window': 2047, 'torch_dtype': 'float16', 'vocab_size': 32064,
    },
}  # fmt: skip


@pytest.mark.parametrize(
    ('base', 'directory', 'published'),
    [
        ('llava15_7b', 'llava-v1.5-7b', {**LLAVA, **VICUNA}),
        ('llava15_13b', 'llava-v1.5-13b', {**LLAVA, **VICUNA, **LARGER}),
        ('llava_llama3_8b', 'llava-llama-3-8b-v1_1-hf', {**LLAVA, **LLAMA_3}),
        ('llava_llama3_8b', 'llava-llama-3-8b-v1_1-transformers', LLAMA_3_HF),
        ('llava_phi3_mini', 'llava-phi-3-mini', {**LLAVA, **PHI_3}),
        ('llava_phi3_mini', 'llava-phi-3-mini-hf', PHI_3_HF),
    ],
    ids=lambda value: value if isinstance(value, str) else '',
)
def test_the_options_fit(base, directory, published):
    text = (ROOT / 'configs' / '_base_' / 'models' / f'{base}.py').read_text(encoding='utf-8')
    (options,) = re.findall(r'--cfg-options (.*)', ast.get_docstring(ast.parse(text)))
    cfg = load_config(f'{base}_food_lora', [] if 'text_config' in published else options.split())
    assert cfg.pretrained == f'pretrained/{directory}'
    stored = layout_of(published, 'published').model_config
    ours = cfg.model.to_dict()
    check_same(ours, stored, 'published')
    assert ours['llm'].get('pad_token_id') == stored['llm'].get('pad_token_id')
    first, second = ({name: value.shape for name, value in tensors_of(build_meta(m)).items()} for m in (ours, stored))
    assert first == second
