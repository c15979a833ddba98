"""``pretrained`` as a dict: each part from a directory of its own, in every form that is published."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file
from transformers import (
    AutoModelForCausalLM,
    Blip2Config,
    Blip2ForConditionalGeneration,
    CLIPConfig,
    CLIPModel,
    Dinov2Config,
    Dinov2Model,
    LlamaConfig,
    PhiConfig,
    SiglipConfig,
    SiglipModel,
)

from mmft.checkpoint import build_pretrained, fingerprint, open_pretrained, read_layout
from mmft.checkpoint.load import build_opened
from mmft.errors import CheckpointError, ConfigError
from mmft.registry import VISION_TOWERS
from tests.helpers import GOLDEN, golden_json, golden_tensors

SIZES = dict(hidden_size=16, num_attention_heads=2, num_hidden_layers=2)
TOWER = dict(image_size=28, patch_size=7, **SIZES)
LLM = dict(vocab_size=64, intermediate_size=32, num_key_value_heads=2, **SIZES)
CLIP = dict(type='CLIP', intermediate_size=32, **TOWER)
QFORMER = dict(
    type='QFormer', num_queries=6, hidden_size=48, num_hidden_layers=4, num_attention_heads=4, intermediate_size=96
)


def save(model, directory):
    model.save_pretrained(directory)
    return {key: value.detach() for key, value in model.state_dict().items()}


@pytest.fixture
def places(tmp_path):
    """A CLIP of two towers, a Llama; name -> directory."""
    torch.manual_seed(0)
    text = dict(intermediate_size=32, vocab_size=32, eos_token_id=1, bos_token_id=0, **SIZES)
    clip = CLIPModel(CLIPConfig(text_config=text, vision_config=dict(intermediate_size=32, **TOWER)))
    save(clip, tmp_path / 'clip')
    save(AutoModelForCausalLM.from_config(LlamaConfig(**LLM)), tmp_path / 'llm')
    return {'vision': str(tmp_path / 'clip'), 'llm': str(tmp_path / 'llm')}


def model_config(vision=None, projector=None, llm=None):
    return {'type': 'VLM', 'vision': vision or CLIP, 'projector': projector or {'type': 'MLP'},
            'llm': llm or dict(type='Llama', **LLM)}  # fmt: skip


def tensors_of(directory):
    found = open_pretrained({'llm': directory}, model_config()).tensors
    return {key.removeprefix('llm/'): found[key] for key in found}


def test_tower_and_language_model(places):
    opened = open_pretrained(places, model_config())
    torch.manual_seed(3)
    model, drawn = build_opened(opened, model_config(), dtype='float32')
    assert drawn == {f'projector.mlp.{i}.{k}' for i in (0, 2) for k in ('weight', 'bias')}
    assert model.projector.mlp[0].weight.std() > 0
    for key, value in tensors_of(places['llm']).items():
        assert torch.equal(model.llm.lm.state_dict()[key], value)
    ids = torch.full((1, model.tokens_per_tile), 9)
    model.image_token_id = 9
    assert model(ids, pixel_values=torch.zeros(1, 3, 28, 28), mode='tensor').isfinite().all()
    assert opened.where == f'vision: {places["vision"]}, llm: {places["llm"]}'
    # The same parts are the same base; other files of one of them another.
    assert build_pretrained(places, model_config())[1] == fingerprint(opened.tensors)
    assert build_pretrained({'llm': places['llm']}, model_config())[1] != fingerprint(opened.tensors)


def test_a_config_of_another_model(places):
    with pytest.raises(ConfigError, match=r"model\.vision\.type = 'SigLIP', but vision: .* holds 'CLIP'"):
        open_pretrained(places, model_config(vision={**CLIP, 'type': 'SigLIP'}))
    with pytest.raises(ConfigError, match=r'model\.vision\.num_attention_heads = 4'):
        open_pretrained(places, model_config(vision={**CLIP, 'num_attention_heads': 4}))
    with pytest.raises(ConfigError, match=r'model\.llm\.rope_theta = 7'):
        open_pretrained(places, model_config(llm=dict(type='Llama', rope_theta=7.0, **LLM)))
    # Nothing that a tower's directory does not know is compared.
    open_pretrained(places, model_config(vision={**CLIP, 'select_layer': -1, 'select_feature': 'cls_patch'}))
    with pytest.raises(CheckpointError, match=r'vision\.tower\.encoder\.layers\.2\.'):
        build_pretrained(places, model_config(vision={**CLIP, 'num_hidden_layers': 3}))
    with pytest.raises(ConfigError, match="the part 'language'"):
        open_pretrained({'language': places['llm']}, model_config())


def test_siglip_dinov2_and_phi(tmp_path):
    text = dict(intermediate_size=32, vocab_size=32, **SIZES)
    siglip = SiglipModel(SiglipConfig(text_config=text, vision_config=dict(intermediate_size=32, **TOWER)))
    save(siglip, tmp_path / 'siglip')
    phi = {**LLM, 'pad_token_id': 0}
    save(AutoModelForCausalLM.from_config(PhiConfig(**phi)), tmp_path / 'phi')
    dino = Dinov2Model(Dinov2Config(mlp_ratio=2, **TOWER))
    save(dino, tmp_path / 'dino')
    config = model_config(vision={**CLIP, 'type': 'SigLIP'}, llm=dict(type='Phi', **phi))
    model, _ = build_pretrained({'vision': str(tmp_path / 'siglip'), 'llm': str(tmp_path / 'phi')}, config)
    own = model.vision.tower.state_dict()
    assert all(torch.equal(own[k], siglip.vision_model.state_dict()[k]) for k in own)
    dinov2 = dict(type='DINOv2', mlp_ratio=2, **TOWER)
    model, _ = build_pretrained({'vision': str(tmp_path / 'dino')}, model_config(vision=dinov2))
    assert torch.equal(model.vision.layers[1].attention.k_proj.weight, dino.encoder.layer[1].attention.k_proj.weight)
    both = model_config(vision={'type': 'MoFTower', 'towers': [{**CLIP, 'type': 'SigLIP'}, dinov2]},
                        projector={'type': 'MoFMLP'})  # fmt: skip
    towers = {'vision': [str(tmp_path / 'siglip'), str(tmp_path / 'dino')]}
    model, drawn = build_opened(open_pretrained(towers, both), both)
    assert torch.equal(model.vision.towers[1].tower.layernorm.weight, dino.layernorm.weight)
    assert not any(name.startswith('vision.') for name in drawn)
    with pytest.raises(ConfigError, match='lists 1 directory for 2 towers'):
        open_pretrained({'vision': towers['vision'][:1]}, both)


def test_a_part_of_a_whole_model():
    """A tower out of an InternVL2, a language model and a projector out of a LLaVA."""
    intern = golden_json('internvl2_internlm2', 'config.json')
    vision = read_layout(GOLDEN / 'internvl2_internlm2').model_config['vision']
    llava = read_layout(GOLDEN / 'llava15').model_config
    config = {'type': 'VLM', 'vision': vision, 'projector': {'type': 'MLP'}, 'llm': llava['llm']}
    parts = {'vision': str(GOLDEN / 'internvl2_internlm2'), 'llm': str(GOLDEN / 'llava15')}
    model, drawn = build_opened(open_pretrained(parts, config), config)
    assert {name.split('.')[0] for name in drawn} == {'projector'}
    want = golden_tensors('llava15', 'model')['model.norm.weight']
    assert torch.equal(model.llm.lm.model.norm.weight.float(), want)
    assert len(model.vision.layers) == intern['vision_config']['num_hidden_layers']
    parts['projector'] = str(GOLDEN / 'llava15')
    if vision['hidden_size'] != llava['vision']['hidden_size']:
        with pytest.raises(CheckpointError, match=r'projector\.mlp\.0\.weight: .* in the weights'):
            build_opened(open_pretrained(parts, config), config)


@pytest.mark.parametrize('form', ['hf', 'blip2', 'lavis', 'minigpt4'])
def test_blip2_qformer(tmp_path, places, form):
    """One Q-Former in four kinds of files lands in the same places. (test_projectors.py has its numbers.)"""
    want, case = golden_tensors('blip2_qformer', 'model'), golden_json('blip2_qformer', 'config.json')
    queries = torch.randn(1, 6, 48)
    renames = golden_json('blip2_qformer', 'minigpt4.json')['rename_hf_to_minigpt4']
    bert = {f'Qformer.{renames[key]}': value for key, value in want.items()}
    text = {'Qformer.cls.predictions.bias': torch.ones(3), 'visual_encoder.cls_token': torch.ones(3),
            'Qformer.bert.embeddings.word_embeddings.weight': torch.ones(3, 3),
            'Qformer.bert.encoder.layer.0.intermediate.dense.bias': torch.ones(3),
            'Qformer.bert.embeddings.position_ids': torch.ones(3)}  # fmt: skip
    blip = {'qformer.' + key: value for key, value in want.items()}
    files = {
        'hf': want,
        # BLIP-2's map leads to a language model of another width: it starts anew.
        'blip2': {**blip, 'query_tokens': queries, 'language_projection.weight': torch.ones(99, 48),
                  'vision_model.encoder.x': torch.ones(2), 'language_model.y': torch.ones(2)},
        'lavis': {'model': {**bert, **text, 'query_tokens': queries, 't5_proj.weight': torch.ones(99, 48)}},
        'minigpt4': {'model': {**bert, 'query_tokens': queries, 'llama_proj.weight': torch.full((16, 48), 2.0),
                               'llama_proj.bias': torch.zeros(16)}},
    }  # fmt: skip
    path = tmp_path / f'{form}.pth'
    if form in ('hf', 'blip2'):
        path = tmp_path / form
        path.mkdir()
        (path / 'config.json').write_text(json.dumps(case if form == 'hf' else {'architectures': ['Blip2Model']}))
        save_file({k: v.contiguous() for k, v in files[form].items()}, path / 'model.safetensors')
    else:
        torch.save(files[form], path)
    tower = {**CLIP, 'hidden_size': case['encoder_hidden_size']}
    config = model_config(vision=tower, projector=QFORMER)
    opened = open_pretrained({'projector': str(path), 'llm': places['llm']}, config)
    model, drawn = build_opened(opened, config, dtype='float32')
    qformer = model.projector.eval().qformer
    assert all(torch.equal(qformer.state_dict()[key], value) for key, value in want.items())
    own = {name for name in drawn if name.startswith('projector.')}
    assert own == {
        'hf': {'projector.query_tokens', 'projector.proj.weight', 'projector.proj.bias'},
        'minigpt4': set(),
    }.get(form, {'projector.proj.weight', 'projector.proj.bias'})


def test_qformer_of_another_width(tmp_path):
    torch.save({'model': {'Qformer.bert.encoder.layer.0.crossattention.self.key.weight': torch.ones(48, 1408)}},
               tmp_path / 'x.pth')  # fmt: skip
    config = model_config(projector=QFORMER)
    with pytest.raises(CheckpointError, match=r'crossattention\.attention\.key\.weight: \(48, 1408\) in the weights'):
        build_pretrained({'projector': str(tmp_path / 'x.pth')}, config)


def test_a_tower_of_timm(tmp_path):
    """timm's own directory: ``architecture`` in config.json, its names, a classifier that is not built."""
    sizes = dict(model_name='vit_tiny_patch16_224', image_size=32, embed_dim=32, depth=2, num_heads=2)
    tower = {'type': 'TimmViT', **sizes}
    want = VISION_TOWERS.build(tower).tower.state_dict()
    head = {'head.weight': torch.ones(10, 32), 'head.bias': torch.ones(10)}
    save_file({**want, **head}, tmp_path / 'model.safetensors')
    numbers = {'architecture': 'vit_tiny_patch16_224', 'num_classes': 10, 'pretrained_cfg': {'input_size': [3, 32, 32]}}
    (tmp_path / 'config.json').write_text(json.dumps(numbers))
    model, _ = build_pretrained({'vision': str(tmp_path)}, model_config(vision=tower))
    assert all(torch.equal(model.vision.tower.state_dict()[key], value) for key, value in want.items())
    (tmp_path / 'config.json').write_text(json.dumps({**numbers, 'architecture': 'vit_small_patch16_224'}))
    with pytest.raises(ConfigError, match=r'model\.vision\.model_name'):
        build_pretrained({'vision': str(tmp_path)}, model_config(vision=tower))


def test_the_tower_and_the_qformer_of_a_blip2(tmp_path):
    """transformers' BLIP-2, taken apart: ViT-g as timm's, Q-Former as a projector; same features as in one piece."""
    vision = dict(hidden_size=32, num_attention_heads=2, num_hidden_layers=2, intermediate_size=64)
    qformer = dict(hidden_size=16, num_attention_heads=2, num_hidden_layers=2, intermediate_size=32)
    text = dict(model_type='opt', vocab_size=30, hidden_size=24, num_hidden_layers=1, ffn_dim=8, num_attention_heads=2)
    torch.manual_seed(0)
    theirs = Blip2ForConditionalGeneration(
        Blip2Config(
            vision_config=dict(image_size=28, patch_size=14, **vision),
            qformer_config=dict(encoder_hidden_size=32, vocab_size=20, **qformer),
            text_config=dict(word_embed_proj_dim=24, **text),
            num_query_tokens=5,
        )
    ).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.normal_(std=0.2)
    theirs.save_pretrained(tmp_path)
    tower = dict(type='TimmViT', model_name='vit_giant_patch14_224', image_size=28, embed_dim=32, depth=2, num_heads=2,
                 mlp_ratio=2, final_norm=False, select_feature='cls_patch')  # fmt: skip
    config = model_config(vision=tower, projector=dict(type='QFormer', num_queries=5, vision_norm=1e-6, **qformer))
    model, drawn = build_opened(open_pretrained(dict.fromkeys(('vision', 'projector'), str(tmp_path)), config), config)
    assert {name for name in drawn if not name.startswith('llm.')} == {'projector.proj.weight', 'projector.proj.bias'}
    pixels = torch.randn(2, 3, 28, 28)
    model.eval().projector.proj = None
    with torch.no_grad():
        seen = theirs.vision_model(pixels).last_hidden_state
        want = theirs.qformer(theirs.query_tokens.expand(2, -1, -1), encoder_hidden_states=seen).last_hidden_state
        torch.testing.assert_close(model.projector(model.vision(pixels)), want, atol=1e-5, rtol=1e-5)


BARE = {
    'connector_linear': {'type': 'Linear'},
    'connector_mlp3x_gelu': {'type': 'MLP', 'depth': 3},
    'connector_resampler': {'type': 'Resampler', 'num_queries': 5, 'depth': 1},
    'connector_bench_resampler': {'type': 'BenchResampler', 'num_queries': 6, 'hidden_size': 48, 'depth': 2},
}


@pytest.mark.parametrize('name', BARE)
def test_a_projector_in_a_file_of_its_own(tmp_path, name):
    """With its wrapper's name before the tensors or without, it gives the original's numbers."""
    case, inputs, outputs = golden_json(name, 'config.json'), *(golden_tensors(name, n) for n in ('inputs', 'outputs'))
    width = case['hidden_size']
    config = model_config(vision={**CLIP, 'hidden_size': 40}, projector=BARE[name],
                          llm=dict(type='Llama', **{**LLM, 'hidden_size': width}))  # fmt: skip
    state = golden_tensors(name, 'model')
    torch.save({key.removeprefix('_connector.'): value for key, value in state.items()}, tmp_path / 'bare.bin')
    for path in (GOLDEN / name, tmp_path / 'bare.bin'):
        model, _ = build_pretrained({'projector': str(path)}, config, dtype='float32')
        torch.testing.assert_close(model.eval().projector(inputs['x']), outputs['y'], atol=1e-5, rtol=1e-5)
