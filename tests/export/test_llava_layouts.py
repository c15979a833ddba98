"""LLaVA's and TinyLLaVA's own layouts, mmft's own, and models put together from parts."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText

import mmft
from mmft.checkpoint import read_layout
from mmft.checkpoint.load import build_pretrained
from mmft.cli.main import main
from mmft.errors import CheckpointError, ConfigError
from mmft.export import convert
from tests.export.tiny import LORA, logits, make_base, make_checkpoint, picture, random_model
from tests.export.tiny_llava import ANYRES, CLIP_MEAN, llava_config, llava_encoder
from tests.helpers import GOLDEN, golden_json, golden_tensors

LLAVA = ['llava15', 'llava15_linear_cls_patch', 'llava16_anyres', 'tinyllava_model']
NEXT = {'merge': {'type': 'AnyResMerge'}}


@pytest.mark.parametrize('case', LLAVA)
def test_official_to_mmft_to_official_is_bit_identical(case, tmp_path):
    made = convert({'pretrained': str(GOLDEN / case)}, None, tmp_path / 'out', 'official', check='full')
    assert made.measured['difference'] == 0
    original, written = (load_file(path / 'model.safetensors') for path in (GOLDEN / case, tmp_path / 'out'))
    assert original.keys() == written.keys()
    for name, value in original.items():
        assert written[name].dtype == value.dtype
        assert torch.equal(written[name], value), name
    before, after = (read_layout(path).model_config for path in (GOLDEN / case, tmp_path / 'out'))
    for part in before:
        same = {**after[part], **before[part]} if isinstance(before[part], dict) else before[part]
        assert after[part] == same, part
    before, after = golden_json(case, 'config.json'), json.loads((tmp_path / 'out' / 'config.json').read_text())
    for name in ('mm_projector_type', 'mm_vision_select_feature', 'mm_patch_merge_type', 'image_grid_pinpoints',
                 'mm_vision_tower', 'image_aspect_ratio', 'connector_type', 'hidden_size', 'rope_theta'):  # fmt: skip
        assert after.get(name) == before.get(name), name


@pytest.mark.parametrize('case', ['llava15', 'llava16_anyres'])
def test_golden_logits_through_transformers(case, tmp_path):
    """The original's numbers, from the class that transformers and LMDeploy know."""
    model = {**read_layout(GOLDEN / case).model_config, 'image_token_id': 256}  # one beyond the table
    convert({'pretrained': str(GOLDEN / case), 'model': model}, None, tmp_path / 'out', dtype='float32', check='none')
    theirs = AutoModelForImageTextToText.from_pretrained(tmp_path / 'out', dtype=torch.float32).eval()
    inputs, outputs = golden_tensors(case, 'inputs'), golden_tensors(case, 'outputs')
    ids = inputs['input_ids'][0][inputs['attention_mask'][0].bool()]
    count = int(outputs['merge/attention_mask'][0].sum()) - len(ids) + 1
    ids = torch.cat([torch.full((count,), 256) if i == -200 else i[None] for i in ids])[None]
    if case == 'llava15':
        pixels, want = {'pixel_values': inputs['images'][:1]}, outputs['logits'][0, : ids.shape[1]]
    else:
        width, height = golden_json(case, 'results.json')['image_sizes'][0]
        pixels = {'pixel_values': inputs['images_0'], 'image_sizes': torch.tensor([[height, width]])}
        want = outputs['logits_first20_sample0']
    with torch.no_grad():
        got = theirs(input_ids=ids, attention_mask=torch.ones_like(ids), **pixels).logits[0, : len(want), :256]
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)


def trained(root, config, encoder, tune=LORA, **options):
    base = make_base(root / 'base', config, 'native', encoder=encoder)
    cfg = {'model': config, 'pretrained': str(base), 'tune': tune}
    return (cfg, *make_checkpoint(root / 'iter_1.pth', cfg, encoder, **options))


OFFICIAL = {
    'LLaVA-1.5': ({}, {}, 'LlavaLlamaForCausalLM'),
    'LLaVA-1.6': (NEXT, {'image_processor': ANYRES}, 'LlavaLlamaForCausalLM'),
    'spatial': (
        {'merge': {'type': 'AnyResMerge', 'unpad': False, 'newline': False}},
        {'image_processor': {**ANYRES, 'mode': 'spatial'}},
        'LlavaLlamaForCausalLM',
    ),
    'LLaVA-1.5-HD': ({}, {'image_processor': {**ANYRES, 'mode': 'flat'}}, 'LlavaLlamaForCausalLM'),
    'Mistral': ({'kind': 'Mistral'}, {'kind': 'Mistral'}, 'LlavaMistralForCausalLM'),
    'linear': ({'projector': {'type': 'Linear'}}, {}, 'LlavaLlamaForCausalLM'),
    'start and end': ({}, {'image_start': '<im_start>', 'image_end': '<im_end>'}, 'LlavaLlamaForCausalLM'),
    'TinyLLaVA': (
        {'kind': 'StableLM', 'tower': 'SigLIP', 'vision': {'drop_first': True}, 'projector': {'depth': 3}},
        {'kind': 'StableLM', 'image_processor': {'type': 'Resize', 'tile_size': 56}, 'tokens_per_tile': 15},
        'TinyLlavaForConditionalGeneration',
    ),
}


@pytest.mark.parametrize('name', OFFICIAL)
def test_official_and_back(name, tmp_path):
    parts, options, architecture = OFFICIAL[name]
    encoder = llava_encoder(**options)
    config = llava_config(**{'spare': len(encoder.tokenizer), **parts})
    if config['projector']['type'] == 'Linear':
        del config['projector']['depth']
    cfg, path, _ = trained(tmp_path, config, encoder)
    made = convert(cfg, path, tmp_path / 'out', 'official', check='full')
    assert made.measured['difference'] < 1e-5
    written = json.loads((tmp_path / 'out' / 'config.json').read_text())
    assert written['architectures'] == [architecture]
    merges = {'LLaVA-1.6': 'spatial_unpad', 'spatial': 'spatial', 'TinyLLaVA': None}
    assert written.get('mm_patch_merge_type') == merges.get(name, 'flat')
    assert written.get('mm_use_im_start_end', False) is (name == 'start and end')
    # Without mmft's own manifest the directory still says which image processor it is of.
    (tmp_path / 'out' / 'encoder.json').unlink()
    read = read_layout(tmp_path / 'out').encoder_config(tmp_path / 'out')['image_processor']
    own = encoder.image_processor.to_dict()
    assert {key: own[key] for key in read if key in ('type', 'mode', 'tile_size')} == {
        key: read[key] for key in read if key in ('type', 'mode', 'tile_size')
    }


def test_what_the_official_layouts_cannot_hold(tmp_path):
    encoder = llava_encoder()
    cfg, path, _ = trained(tmp_path, llava_config(pixel_mean=[0.5] * 3), encoder)
    with pytest.raises(ConfigError, match=r'pixel_mean \[0\.5'):
        convert(cfg, path, tmp_path / 'out', 'official')
    encoder = llava_encoder(image_processor={'type': 'Resize', 'tile_size': 56})
    cfg, path, _ = trained(tmp_path / 'two', llava_config(), encoder)
    with pytest.raises(ConfigError, match=r'Resize(?s:.*)--layout native'):
        convert(cfg, path, tmp_path / 'out', 'official')
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize(
    ('vision', 'projector', 'tokens'),
    [
        ({'type': 'TimmViT', 'model_name': 'vit_tiny_patch16_224', 'image_size': 64}, {'type': 'Linear'}, 16),
        ({'type': 'CLIP'}, {'type': 'MoEMLP', 'num_experts': 3, 'top_k': 2}, 16),
        ({'type': 'InternViT'}, {'type': 'MLP', 'depth': 1}, 16),
    ],
)
def test_native_holds_any_mix(vision, projector, tokens, tmp_path):
    encoder = llava_encoder(tokens_per_tile=tokens, image_processor={'type': 'Resize', 'tile_size': 56})
    config = llava_config()
    sizes = {} if vision['type'] == 'TimmViT' else {**config['vision'], 'hidden_act': 'gelu', 'select_layer': -1}
    config |= {'vision': {**sizes, **vision}, 'projector': projector}
    if vision['type'] == 'TimmViT':
        encoder = llava_encoder(tokens_per_tile=tokens, image_processor={'type': 'Resize', 'tile_size': 64})
    cfg, path, model = trained(tmp_path, config, encoder)
    with pytest.raises(ConfigError, match='--layout native'):
        convert(cfg, path, tmp_path / 'never')
    for check in ('full', 'weights'):
        convert(cfg, path, tmp_path / check, 'native', check=check)
    read, read_encoder = mmft.load(tmp_path / 'full')
    assert read.image_token_id == encoder.image_token_id
    want = logits(model, encoder, [picture(130, 60)])
    torch.testing.assert_close(logits(read, read_encoder, [picture(130, 60)]), want, atol=1e-5, rtol=1e-5)


# -- models from parts ------------------------------------------------------------------------------------------------


@pytest.fixture
def parts(tmp_path):
    """Directories of a CLIP tower and of a language model, as transformers writes them, the latter in bfloat16."""
    model = random_model(llava_config())
    model.vision.tower.save_pretrained(tmp_path / 'clip')
    model.llm.lm.to(torch.bfloat16).save_pretrained(tmp_path / 'llama')
    llava_encoder().save_pretrained(tmp_path / 'llama')
    return {'vision': str(tmp_path / 'clip'), 'llm': str(tmp_path / 'llama')}


@pytest.mark.parametrize('layout', ['hf', 'official', 'native'])
@pytest.mark.parametrize('check', ['full', 'weights'])
def test_parts_and_a_checkpoint(layout, check, parts, tmp_path):
    """What no directory holds, the projector, is the checkpoint's; all is written in the language model's dtype."""
    encoder, config = llava_encoder(), llava_config()
    cfg = {'model': config, 'pretrained': parts, 'tune': LORA}
    path, model = make_checkpoint(tmp_path / 'iter_1.pth', cfg, encoder)
    made = convert(cfg, path, tmp_path / 'out', layout, check=check)
    assert made.check == check
    assert {tensor.dtype for tensor in load_file(tmp_path / 'out' / 'model.safetensors').values()} == {torch.bfloat16}
    convert(cfg, path, tmp_path / 'float32', layout, dtype='float32', check='none')
    read, _ = mmft.load(tmp_path / 'float32')
    want = logits(model, encoder, [picture()])
    torch.testing.assert_close(logits(read, encoder, [picture()]), want, atol=1e-5, rtol=1e-5)
    other = random_model(config, seed=7)
    other.vision.tower.save_pretrained(tmp_path / 'other')
    with pytest.raises(CheckpointError, match='other weights'):
        convert({**cfg, 'pretrained': {**parts, 'vision': str(tmp_path / 'other')}}, path, tmp_path / 'never')


@pytest.mark.parametrize('layout', ['official', 'hf'])
@pytest.mark.parametrize('folder', [True, False])
def test_parts_and_a_projector_of_the_first_stage(layout, folder, parts, tmp_path, capsys):
    """``pth_to_hf CONFIG none OUT``: a base of parts and LLaVA's ``mm_projector.bin`` become one directory."""
    config, encoder = llava_config(), llava_encoder()
    projector = random_model(config, seed=5).projector.state_dict()
    stage = tmp_path / 'llava-pretrain'
    stage.mkdir()
    torch.save({f'model.mm_projector.{name.removeprefix("mlp.")}': value for name, value in projector.items()},
               stage / 'mm_projector.bin')  # fmt: skip
    (stage / 'config.json').write_text(json.dumps({'mm_projector_type': 'mlp2x_gelu', 'mm_vision_tower': 'clip'}))
    settings = {'type': 'ChatEncoder', 'tokenizer': parts['llm'], 'template': 'vicuna_v1', 'images_first': True,
                'image_processor': {'type': 'PadSquare', 'tile_size': 56, 'mean': CLIP_MEAN}, 'image_start': '',
                'image_token': '<image>', 'image_end': '', 'add_tokens': True}  # fmt: skip
    source = str(stage if folder else stage / 'mm_projector.bin')
    cfg = {'model': config, 'pretrained': parts, 'encoder': settings, 'init_from': source}
    file, out = tmp_path / 'config.py', tmp_path / 'out'
    file.write_text('\n'.join(f'{key} = {value!r}' for key, value in cfg.items()))
    command = ['pth_to_hf', str(file), 'none', str(out), '--layout', layout, '--check', 'full', '--dtype', 'float32']
    assert main(command) == 0, capsys.readouterr().err
    model, read = mmft.load(out)
    base, _ = build_pretrained(parts, config, 'float32')
    base.projector.load_state_dict(projector)
    own = model.state_dict()
    assert all(torch.equal(own[name], value) for name, value in base.state_dict().items())
    messages = [{'role': 'user', 'content': '<image>\nWhat dish is it?'}]
    ids, want = (one(messages, [picture()], add_generation_prompt=True).input_ids for one in (read, encoder))
    assert torch.equal(ids, want)


def test_initialised_tensors_of_a_checkpoint(parts, tmp_path):
    """A projector that came by ``init_from`` and stayed frozen: it is in the checkpoint, in no base."""
    encoder, tune = llava_encoder(), {**LORA, 'projector': 'frozen'}
    cfg = {'model': llava_config(), 'pretrained': parts, 'tune': tune}
    path, model = make_checkpoint(tmp_path / 'iter_1.pth', cfg, encoder, initialised=('projector.',))
    assert torch.load(path, weights_only=True)['meta']['initialised'] == sorted(
        name for name, _ in model.named_parameters() if name.startswith('projector.')
    )
    want = logits(model, encoder, [picture()])
    for check in ('full', 'weights'):
        convert(cfg, path, tmp_path / check, dtype='float32', check=check)
        torch.testing.assert_close(logits(mmft.load(tmp_path / check)[0], encoder, [picture()]), want)
    made = convert(cfg, path, tmp_path / 'adapter', adapter=True, check='full')  # the base has none: it goes along
    assert made.measured['difference'] < 1e-5
    path, _ = make_checkpoint(tmp_path / 'iter_2.pth', cfg, encoder)
    with pytest.raises(CheckpointError, match='neither in'):
        convert(cfg, path, tmp_path / 'never')


def test_initialised_weights_under_an_adapter(tmp_path):
    """LoRA on a projector that came by ``init_from``: the adapter is merged into the checkpoint's own weight."""
    encoder, config = llava_encoder(), llava_config()
    model = random_model(config)
    model.vision.tower.save_pretrained(tmp_path / 'clip')
    model.llm.lm.save_pretrained(tmp_path / 'llama')
    tune = {'vision': 'frozen', 'projector': {'type': 'lora', 'r': 2}, 'llm': 'frozen'}
    pretrained = {'vision': str(tmp_path / 'clip'), 'llm': str(tmp_path / 'llama')}
    cfg = {'model': config, 'pretrained': pretrained, 'tune': tune}
    path, model = make_checkpoint(tmp_path / 'iter_1.pth', cfg, encoder, initialised=('projector.',))
    for check in ('full', 'weights'):
        convert(cfg, path, tmp_path / check, check=check)
    want = logits(model, encoder, [picture()])
    got = logits(mmft.load(tmp_path / 'full')[0], encoder, [picture()])
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)


def test_an_old_lora_directory_as_base(tmp_path):
    """LLaVA's own adapter directory is merged as it is read; a training on it is exported as on any base."""
    encoder, config = llava_encoder(), llava_config(spare=len(llava_encoder().tokenizer))
    plain = make_base(tmp_path / 'base', config, 'official', encoder=encoder)
    old = tmp_path / 'old-lora'
    old.mkdir()
    for file in ('config.json', 'vision_config.json'):
        (old / file).write_text((plain / file).read_text())
    name = 'model.layers.0.self_attn.q_proj'
    generator = torch.Generator().manual_seed(3)
    save_file(
        {
            f'base_model.model.{name}.lora_A.weight': torch.randn(2, 64, generator=generator),
            f'base_model.model.{name}.lora_B.weight': torch.randn(64, 2, generator=generator),
        },
        old / 'adapter_model.safetensors',
    )
    settings = {'peft_type': 'LORA', 'r': 2, 'lora_alpha': 4, 'base_model_name_or_path': str(plain)}
    (old / 'adapter_config.json').write_text(json.dumps({**settings, 'target_modules': ['q_proj']}))
    torch.save({}, old / 'non_lora_trainables.bin')
    cfg = {'model': config, 'pretrained': str(old), 'tune': LORA}
    path, model = make_checkpoint(tmp_path / 'iter_1.pth', cfg, encoder)
    for check in ('full', 'weights'):
        convert(cfg, path, tmp_path / check, check=check)
    want = logits(model, encoder, [picture()])
    got = logits(mmft.load(tmp_path / 'full')[0], encoder, [picture()])
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)
