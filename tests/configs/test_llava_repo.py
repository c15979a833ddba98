"""liuhaotian/llava-v1.5 in the place of llava-hf's copy: the options that the base config names fit it."""

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

PUBLISHED = {
    'architectures': ['LlavaLlamaForCausalLM'], 'model_type': 'llava', 'bos_token_id': 1, 'eos_token_id': 2,
    'pad_token_id': 0, 'hidden_act': 'silu', 'hidden_size': 4096, 'intermediate_size': 11008, 'num_hidden_layers': 32,
    'num_attention_heads': 32, 'num_key_value_heads': 32, 'max_position_embeddings': 4096, 'rms_norm_eps': 1e-05,
    'rope_scaling': None, 'tie_word_embeddings': False, 'vocab_size': 32000, 'torch_dtype': 'float16',
    'mm_vision_tower': 'openai/clip-vit-large-patch14-336', 'mm_hidden_size': 1024, 'mm_projector_type': 'mlp2x_gelu',
    'mm_vision_select_layer': -2, 'mm_vision_select_feature': 'patch', 'mm_use_im_start_end': False,
    'mm_use_im_patch_token': False, 'image_aspect_ratio': 'pad', 'use_mm_proj': True,
}  # fmt: skip
"""``config.json`` of liuhaotian/llava-v1.5-7b, as far as it describes the model."""
LARGER = {'hidden_size': 5120, 'intermediate_size': 13824, 'num_hidden_layers': 40, 'num_attention_heads': 40,
          'num_key_value_heads': 40}  # fmt: skip


@pytest.mark.parametrize(('size', 'more'), [('7b', {}), ('13b', LARGER)])
def test_the_options_fit(size, more):
    text = (ROOT / 'configs' / '_base_' / 'models' / f'llava15_{size}.py').read_text(encoding='utf-8')
    (options,) = re.findall(r'--cfg-options (.*)', ast.get_docstring(ast.parse(text)))
    cfg = load_config(f'llava15_{size}_food_lora', options.split())
    assert cfg.pretrained == f'pretrained/llava-v1.5-{size}'
    stored = layout_of({**PUBLISHED, **more}, 'published').model_config
    ours = cfg.model.to_dict()
    check_same(ours, stored, 'published')
    assert ours['llm']['pad_token_id'] == stored['llm']['pad_token_id']
    first, second = ({name: value.shape for name, value in tensors_of(build_meta(m)).items()} for m in (ours, stored))
    assert first == second
