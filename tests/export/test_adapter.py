"""``--adapter``: the directory that peft loads over transformers' own model of the base."""

from __future__ import annotations

import json

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import InternVLForConditionalGeneration

from mmft.errors import ConfigError
from mmft.export import convert
from tests.export.tiny import LORA, logits, make_base, make_checkpoint, make_encoder, model_config, picture

TUNES = {
    'llm': LORA,
    'all_parts': {
        'vision': {'type': 'lora', 'r': 2, 'alpha': 6, 'from_layer': 1},
        'projector': {'type': 'lora', 'r': 3, 'alpha': 3},
        'llm': {'type': 'lora', 'r': 4, 'alpha': 8, 'targets': ['q_proj', 'down_proj']},
    },
    'dora': {
        'vision': {'type': 'lora', 'r': 2, 'dora': True},
        'projector': 'full',
        'llm': {'type': 'lora', 'r': 4, 'dora': True},
    },
    'frozen_projector': {'vision': {'type': 'lora', 'r': 2}, 'projector': 'frozen', 'llm': 'frozen'},
}


def with_adapter(base, directory, sample, model):
    theirs = InternVLForConditionalGeneration.from_pretrained(base)
    theirs = PeftModel.from_pretrained(theirs, directory).eval()
    ids = sample.input_ids[None]
    pixels = model.data_preprocessor.normalize(sample.pixel_values)
    with torch.no_grad():
        return theirs(input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=pixels).logits[0]


@pytest.mark.parametrize('name', TUNES)
def test_peft_over_transformers_gives_our_logits(name, tmp_path):
    encoder, config = make_encoder(), model_config()
    official = make_base(tmp_path / 'base', config, encoder=encoder)
    cfg = {'model': config, 'pretrained': str(official), 'tune': TUNES[name]}
    path, model = make_checkpoint(tmp_path / 'iter_1.pth', cfg, encoder)
    convert(cfg, None, tmp_path / 'base_hf', check='none')
    made = convert(cfg, path, tmp_path / 'adapter', adapter=True, check='full')
    assert made.measured['difference'] < 1e-5
    assert {'adapter_config.json', 'adapter_model.safetensors', 'encoder.json'} <= set(made.files)
    sample = encoder.prompt('What dish is it?', [picture()])
    got = with_adapter(tmp_path / 'base_hf', tmp_path / 'adapter', sample, model)
    torch.testing.assert_close(got, logits(model, encoder, [picture()]), atol=1e-5, rtol=1e-5)


def test_phi3_whose_layers_stay_packed(tmp_path):
    encoder, config = make_encoder('Phi3'), model_config('Phi3')
    base = make_base(tmp_path / 'base', config, 'hf', encoder=encoder)
    cfg = {'model': config, 'pretrained': str(base), 'tune': LORA}
    path, model = make_checkpoint(tmp_path / 'iter_1.pth', cfg, encoder)
    made = convert(cfg, path, tmp_path / 'adapter', adapter=True, check='weights')
    assert made.measured == {'tensors': len(load_file(tmp_path / 'adapter' / 'adapter_model.safetensors'))}
    settings = json.loads((tmp_path / 'adapter' / 'adapter_config.json').read_text())
    assert settings['base_model_name_or_path'] == str(base)
    assert settings['modules_to_save'] == ['model.multi_modal_projector']
    sample = encoder.prompt('What dish is it?', [picture()])
    got = with_adapter(base, tmp_path / 'adapter', sample, model)
    torch.testing.assert_close(got, logits(model, encoder, [picture()]), atol=1e-5, rtol=1e-5)
    half = convert(cfg, path, tmp_path / 'half', adapter=True, dtype='bfloat16', check='full')
    assert {t.dtype for t in load_file(half.path / 'adapter_model.safetensors').values()} == {torch.bfloat16}


def test_refused_without_lora_and_in_another_layout(tmp_path):
    config = model_config(vocab_size=300)
    base = make_base(tmp_path / 'base', config)
    cfg = {'model': config, 'pretrained': str(base), 'tune': {'vision': 'frozen', 'projector': 'full', 'llm': 'full'}}
    path, _ = make_checkpoint(tmp_path / 'iter_1.pth', cfg)
    with pytest.raises(ConfigError, match='no LoRA was trained'):
        convert(cfg, path, tmp_path / 'adapter', adapter=True)
    cfg['tune'] = LORA
    path, _ = make_checkpoint(tmp_path / 'iter_2.pth', cfg)
    bare = {'model': config, 'tune': LORA}
    path_of_bare, _ = make_checkpoint(tmp_path / 'bare.pth', bare, initialised=('vision', 'llm'))
    with pytest.raises(ConfigError, match='an adapter without a base'):
        convert(bare, path_of_bare, tmp_path / 'adapter', adapter=True)
    with pytest.raises(ConfigError, match="'official'"):
        convert(cfg, path, tmp_path / 'adapter', 'official', adapter=True)
    cfg['tune'] = {'vision': {'type': 'lora', 'dora': True}, 'projector': 'full', 'llm': 'lora'}
    path, _ = make_checkpoint(tmp_path / 'iter_3.pth', cfg)
    with pytest.raises(ConfigError, match='DoRA on another'):
        convert(cfg, path, tmp_path / 'adapter', adapter=True)
    for part in ('vision', 'llm'):  # peft could not load them: see mmft/export/adapter.py
        cfg['tune'] = {'vision': 'lora', 'projector': 'full', 'llm': 'lora', part: 'full'}
        path, _ = make_checkpoint(tmp_path / f'iter_{part}.pth', cfg)
        with pytest.raises(ConfigError, match=rf"'{part}'\] were trained in full"):
            convert(cfg, path, tmp_path / 'adapter', adapter=True)
    assert not list(tmp_path.glob('adapter*'))
