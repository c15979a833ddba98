"""Qwen3 as InternVL3.5 has it: its published config, prompt and tie. All else that every family has is tested for it in
``tests/models/test_families.py`` and ``tests/export/test_every_family.py``.

Sources: ``internvl_chat_gpt_oss/shell/internvl3_5_qwen3`` and ``.../internvl_chat/conversation.py`` of
OpenGVLab/InternVL; ``transformers/models/qwen3``.
"""

from __future__ import annotations

import json

import pytest
from safetensors.torch import load_file, save_file

import mmft
from mmft.data.text.templates import build_template
from mmft.layouts import layout_of
from mmft.models.language.family import families
from mmft.registry import LANGUAGE_MODELS
from tests.export.tiny import make_base, make_encoder, model_config
from tests.models.parts import llm_config

QWEN3_0_6B = {
    'architectures': ['Qwen3ForCausalLM'], 'model_type': 'qwen3', 'attention_bias': False, 'attention_dropout': 0.0,
    'bos_token_id': 151643, 'eos_token_id': 151645, 'head_dim': 128, 'hidden_act': 'silu', 'hidden_size': 1024,
    'initializer_range': 0.02, 'intermediate_size': 3072, 'max_position_embeddings': 40960, 'max_window_layers': 28,
    'num_attention_heads': 16, 'num_hidden_layers': 28, 'num_key_value_heads': 8, 'rms_norm_eps': 1e-6,
    'rope_scaling': None, 'rope_theta': 1000000, 'sliding_window': None, 'tie_word_embeddings': True,
    'torch_dtype': 'bfloat16', 'use_cache': True, 'use_sliding_window': False, 'vocab_size': 151936,
}  # fmt: skip
VISION = {'hidden_size': 1024, 'num_hidden_layers': 24, 'num_attention_heads': 16, 'intermediate_size': 4096}


def official(**more):
    return {'architectures': ['InternVLChatModel'], 'vision_config': VISION, 'llm_config': QWEN3_0_6B, **more}


def test_the_published_config(tmp_path):
    layout = layout_of(official(), 'it')
    llm = dict(layout.model_config['llm'])
    assert llm.pop('type') == 'Qwen3'
    config = LANGUAGE_MODELS.get('Qwen3').hf_config(llm)
    names = ('head_dim', 'hidden_size', 'num_attention_heads', 'num_key_value_heads', 'max_position_embeddings',
             'rms_norm_eps', 'attention_bias', 'sliding_window', 'eos_token_id', 'vocab_size')  # fmt: skip
    assert {name: getattr(config, name) for name in names} == {name: QWEN3_0_6B[name] for name in names}
    assert config.rope_parameters == {'rope_type': 'default', 'rope_theta': 1000000}
    assert set(config.layer_types) == {'full_attention'}
    assert layout.encoder_config(tmp_path)['template'] == 'internvl2_5'  # also where the config names none


def test_prompts():
    question = [{'role': 'user', 'content': 'Hi'}]
    family = families()['Qwen3']
    assert build_template(family.internvl_template).text(question, add_generation_prompt=True) == (
        '<|im_start|>system\n你是书生·万象，英文名是InternVL，是由上海人工智能实验室、清华大学及多家合作单位联合开发的多模态大语言模型。'
        '<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n'
    )
    own = build_template(family.template)
    assert own.text(question, add_generation_prompt=True) == '<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n'
    assert (own.end, own.stop) == ('<|im_end|>', ('<|endoftext|>',))


def test_norms_of_each_head_and_no_biases():
    llm = LANGUAGE_MODELS.build(llm_config('Qwen3', head_dim=16))
    attention = llm.layers[0].self_attn
    assert (attention.q_norm.weight.shape, attention.k_norm.weight.shape) == ((16,), (16,))
    assert attention.q_proj.weight.shape == (2 * 16, llm.hidden_size)
    assert not [name for name, _ in llm.named_parameters() if name.endswith('bias')]


@pytest.mark.parametrize('layout', ['official', 'hf'])
@pytest.mark.parametrize('tied', [True, False])
def test_the_tie(layout, tied, tmp_path):
    """The small Qwen3s tie embeddings and head, and their directories hold no head; the large ones do not tie."""
    config = model_config('Qwen3', tie_word_embeddings=tied)
    base = make_base(tmp_path / 'base', config, layout, encoder=make_encoder('Qwen3'))
    said = json.loads((base / 'config.json').read_text())
    if layout == 'official':
        said['llm_config']['tie_word_embeddings'] = said['tie_word_embeddings'] = tied
        (base / 'config.json').write_text(json.dumps(said))
    file = base / 'model.safetensors'
    tensors = load_file(file)
    if tied:
        tensors.pop('language_model.lm_head.weight', None)
    save_file(tensors, file, {'format': 'pt'})
    model, _ = mmft.load(base)
    embedding, head = model.llm.tables
    assert (head.weight is embedding.weight) is tied
