"""InternVL2.5, 3 and 3.5 as published, in both forms: OpenGVLab's own directories and transformers' (``-hf``).

Small copies: ``config.json`` with the entries of the published files, and models that transformers' own class saved.
Facts: config.json of OpenGVLab/InternVL3-1B; ``convert_internvl_weights_to_hf.py`` of transformers, which wrote the -hf
directories; ``internvl_chat/shell`` and ``internvl_chat_gpt_oss/shell`` of OpenGVLab/InternVL.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoProcessor,
    AutoTokenizer,
    GotOcr2ImageProcessor,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    InternVLVideoProcessor,
    InternVLVisionConfig,
)

import mmft
from mmft.checkpoint import read_layout
from mmft.errors import CheckpointError
from mmft.export import convert
from mmft.layouts import layout_of
from tests.checkpoint.test_directory_template import INTERNVL_3
from tests.export.tiny import LORA, logits, make_base, make_checkpoint, make_encoder, model_config, picture

DYNAMIC = {'rope_theta': 1000000.0, 'rope_scaling': {'type': 'dynamic', 'factor': 2.0}}
RELEASES = {  # mmft's language model, transformers' in the -hf directory, what its config says more
    'InternVL2.5-2B': ('InternLM2', 'llama', DYNAMIC),
    'InternVL2.5-4B, InternVL3-8B': ('Qwen2', 'qwen2', DYNAMIC),
    'InternVL3-9B': (
        'InternLM3',
        'llama',
        {'rope_theta': 5e7, 'rope_scaling': {'rope_type': 'dynamic', 'factor': 6.0}},
    ),
    'InternVL3.5-8B': ('Qwen3', 'qwen3', {'head_dim': 32, 'rope_theta': 1000000.0}),
}
each_release = pytest.mark.parametrize('release', RELEASES)

# Beside what mmft reads: what its own programs do not need, or take from the template.
PUBLISHED = {
    'hidden_size': 64, 'image_fold': None, 'model_type': 'internvl_chat', 'output_attentions': False,
    'system_message': None, 'transformers_version': None, 'use_backbone_lora': 0, 'use_llm_lora': 0,
}  # fmt: skip
PUBLISHED_LLM = {'_name_or_path': './pretrained/llm', 'moe_config': None, 'use_bfloat16': True, 'use_cache': False}
PUBLISHED_VISION = {
    '_name_or_path': 'OpenGVLab/InternViT-6B-448px-V1-5', 'capacity_factor': 1.2, 'drop_path_rate': 0.1,
    'laux_allreduce': 'all_nodes', 'moe_coeff_ratio': 0.5, 'num_experts': 8, 'use_flash_attn': True, 'use_moe': False,
}  # fmt: skip


def encoder_of(kind: str, **more: Any):
    return make_encoder(kind, **{'template': 'internvl2_5', **more})


def official(path: Path, release: str) -> Path:
    """A directory as OpenGVLab publishes it: no ``encoder.json``, twelve tiles."""
    kind, _, more = RELEASES[release]
    tiles = {'type': 'DynamicTiler', 'tile_size': 56, 'min_tiles': 1, 'max_tiles': 12, 'thumbnail': True}
    encoder = encoder_of(kind, image_processor=tiles)
    make_base(path, model_config(kind, **more), 'official', torch.bfloat16, encoder)
    (path / 'encoder.json').unlink()
    config = json.loads((path / 'config.json').read_text())
    config = {**config, **PUBLISHED}
    config['llm_config'] |= PUBLISHED_LLM
    config['vision_config'] |= PUBLISHED_VISION
    if 'rope_scaling' in more:  # InternVL3 says it twice
        config['llm_config']['rope_scaling'] = {'factor': 2.0, 'rope_type': 'dynamic', 'type': 'dynamic'}
    (path / 'config.json').write_text(json.dumps(config))
    return path


def hf(path: Path, release: str) -> Path:
    """A directory as transformers' own converter writes it."""
    kind, model_type, more = RELEASES[release]
    tokenizer = encoder_of(kind).tokenizer
    llm = model_config(kind, **more)['llm']
    rope = {'rope_type': 'default', **llm.pop('rope_scaling', {}), 'rope_theta': llm.pop('rope_theta')}
    rope.pop('type', None)
    if 'rope_scaling' in more:
        rope['rope_type'] = 'dynamic'
    text = AutoConfig.for_model(model_type, rope_parameters=rope, tie_word_embeddings=False, **llm)
    vision = InternVLVisionConfig(
        hidden_size=48, num_hidden_layers=2, num_attention_heads=4, intermediate_size=96, image_size=[56, 56],
        patch_size=[14, 14], attention_bias=True, layer_norm_eps=1e-6,
    )  # fmt: skip
    image_token_id = tokenizer.convert_tokens_to_ids('<IMG_CONTEXT>')
    config = InternVLConfig(text_config=text, vision_config=vision, image_token_id=image_token_id, image_seq_length=4,
                            tie_word_embeddings=False)  # fmt: skip
    torch.manual_seed(0)
    model = InternVLForConditionalGeneration(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    names = {'start_image_token': '<img>', 'end_image_token': '</img>', 'context_image_token': '<IMG_CONTEXT>',
             'video_token': '</img>'}  # fmt: skip
    side = {'height': 56, 'width': 56}
    InternVLProcessor(
        image_processor=GotOcr2ImageProcessor(
            size=side, crop_to_patches=True, max_patches=12, image_mean=[0.485, 0.456, 0.406],
            image_std=[0.229, 0.224, 0.225],
        ),
        tokenizer=AutoTokenizer.from_pretrained(path, extra_special_tokens=names),
        video_processor=InternVLVideoProcessor(size=side),
        image_seq_length=4,
        chat_template=INTERNVL_3,
    ).save_pretrained(path)  # fmt: skip
    return path


def same_files(one: Path, two: Path) -> bool:
    """Whether two directories hold the same tensors, bit for bit."""
    first, second = load_file(one / 'model.safetensors'), load_file(two / 'model.safetensors')
    assert first.keys() == second.keys()
    return all(first[k].dtype == second[k].dtype and torch.equal(first[k], second[k]) for k in first)


def of_transformers(path: Path, model, encoder):
    """transformers' own class: logits of a question with a picture (L,V), and its greedy answer."""
    theirs = InternVLForConditionalGeneration.from_pretrained(path, dtype=torch.float32).eval()
    sample = encoder.prompt('What dish is it?', [picture()])
    ids, pixels = sample.input_ids[None], model.data_preprocessor.normalize(sample.pixel_values)
    inputs = {'input_ids': ids, 'attention_mask': torch.ones_like(ids), 'pixel_values': pixels}
    ends = {'eos_token_id': encoder.stop_token_ids, 'pad_token_id': encoder.pad_token_id, 'do_sample': False}
    with torch.no_grad():
        answer = theirs.generate(**inputs, max_new_tokens=5, **ends)[0, ids.shape[1] :]
        return theirs(**inputs).logits[0], answer.tolist()


def ours(model, encoder):
    sample = encoder.prompt('What dish is it?', [picture()])
    ends = {'eos_token_id': encoder.stop_token_ids, 'pad_token_id': encoder.pad_token_id, 'do_sample': False}
    answer = model.generate(sample.input_ids[None], sample.pixel_values, max_new_tokens=5, **ends)[0]
    return logits(model, encoder, [picture()]), answer.tolist()


def check_same(got, want):
    torch.testing.assert_close(got[0], want[0], atol=1e-5, rtol=1e-5)
    assert got[1] == want[1]


@each_release
def test_an_official_directory_is_read(release, tmp_path):
    kind, _, more = RELEASES[release]
    model, encoder = mmft.load(official(tmp_path / 'base', release))
    assert type(model.llm).__name__ == kind
    assert encoder.template.name == 'internvl2_5'
    assert encoder.template.system_message.startswith('你是书生·万象')  # the template's: `system_message` says null
    assert (encoder.image_processor.max_tiles, encoder.image_processor.thumbnail) == (12, True)
    rope = model.llm.lm.config.rope_parameters
    assert rope['rope_type'] == ('dynamic' if 'rope_scaling' in more else 'default')


@each_release
def test_official_to_hf_and_back_is_bit_identical(release, tmp_path):
    base = official(tmp_path / 'base', release)
    kept = {'pretrained': str(base), 'model': read_layout(base).model_config}
    convert(kept, None, tmp_path / 'same', 'official', check='weights')
    assert same_files(base, tmp_path / 'same')
    said = json.loads((tmp_path / 'same' / 'config.json').read_text())
    assert said.items() >= {**PUBLISHED, 'template': 'internvl2_5', 'max_dynamic_patch': 12}.items()
    convert(kept, None, tmp_path / 'hf', 'hf', check='weights')
    convert({**kept, 'pretrained': str(tmp_path / 'hf')}, None, tmp_path / 'back', 'official', check='weights')
    assert same_files(base, tmp_path / 'back')


@each_release
def test_an_hf_directory_is_read_as_transformers_reads_it(release, tmp_path):
    path = hf(tmp_path / 'base', release)
    model, encoder = mmft.load(path)
    assert (encoder.template.name, encoder.template.system_message) == ('internvl2_5', None)
    assert encoder.image_processor.max_tiles == 12
    check_same(of_transformers(path, model, encoder), ours(model, encoder))
    content = [{'type': 'image', 'image': picture(130, 60)}, {'type': 'text', 'text': 'What is it? 这是什么菜？'}]
    options = {'add_generation_prompt': True, 'tokenize': True, 'return_dict': True, 'return_tensors': 'pt'}
    got = AutoProcessor.from_pretrained(path).apply_chat_template([{'role': 'user', 'content': content}], **options)
    want = encoder.prompt('What is it? 这是什么菜？', [picture(130, 60)])
    assert got['input_ids'][0].tolist() == want.input_ids.tolist()


@each_release
def test_hf_to_official_and_back_is_bit_identical(release, tmp_path):
    base = hf(tmp_path / 'base', release)
    kept = {'pretrained': str(base), 'model': read_layout(base).model_config}
    for place, layout in (('same', 'hf'), ('official', 'official')):
        convert(kept, None, tmp_path / place, layout, check='weights')
    convert({**kept, 'pretrained': str(tmp_path / 'official')}, None, tmp_path / 'back', 'hf', check='weights')
    assert same_files(base, tmp_path / 'same')
    assert same_files(base, tmp_path / 'back')


@each_release
@pytest.mark.parametrize('start', [official, hf])
def test_a_training_exported_in_both_layouts(start, release, tmp_path):
    base = start(tmp_path / 'base', release)
    _, encoder = mmft.load(base)
    cfg = {'model': read_layout(base).model_config, 'pretrained': str(base), 'tune': LORA}
    path, model = make_checkpoint(tmp_path / 'iter_1.pth', cfg, encoder)
    want = ours(model, encoder)
    for layout in ('hf', 'official'):
        export = partial(convert, cfg, path, tmp_path / layout, layout)
        assert export(dtype='float32', check='full').measured['difference'] < 1e-5
        check_same(ours(*mmft.load(tmp_path / layout)), want)
    check_same(of_transformers(tmp_path / 'hf', model, encoder), want)


@pytest.mark.parametrize(
    'config',
    [
        {'architectures': ['InternVLChatModel'], 'llm_config': {'architectures': ['Qwen3MoeForCausalLM']}},
        {'architectures': ['InternVLChatModel'], 'llm_config': {'architectures': ['GptOssForCausalLM']}},
        {'architectures': ['InternVLForConditionalGeneration'], 'text_config': {'model_type': 'qwen3_moe'}},
        {'architectures': ['InternVLForConditionalGeneration'], 'text_config': {'model_type': 'gpt_oss'}},
    ],
)
def test_mixtures_of_experts_are_refused(config):
    """InternVL3.5-30B-A3B, -241B-A28B and -GPT-OSS-20B."""
    with pytest.raises(CheckpointError, match=r'(?s)a mixture of experts.*to do: .*a dense size'):
        layout_of({'vision_config': {}, **config}, 'it')
