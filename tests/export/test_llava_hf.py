"""HF-native LLaVA and LLaVA-NeXT exports, opened by transformers' own classes."""

from __future__ import annotations

import json
from functools import partial

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoProcessor, GenerationConfig
from transformers.models.llava_next.processing_llava_next import LlavaNextProcessor
from transformers.models.llava_onevision.processing_llava_onevision import LlavaOnevisionProcessor

import mmft
from mmft.errors import ConfigError
from mmft.export import convert
from mmft.models.language.family import held_by
from tests.export import tiny
from tests.export.tiny import LORA, logits, make_base, make_checkpoint, picture
from tests.export.tiny_llava import (
    ANYRES,
    CLIP_MEAN,
    CLIP_STD,
    ONEVISION,
    ONEVISION_PARTS,
    PINPOINTS,
    PIXELS,
    llava_config,
    llava_encoder,
)

QUESTION = 'What dish is it? 这是什么菜？'
LLMS = list(held_by('llava_hf'))
NEXT = {'merge': {'type': 'AnyResMerge'}}


def trained(root, config, encoder, tune=LORA, layout='native', dtype=torch.float32):
    """(cfg, checkpoint, trained model) of a LoRA run on a base in ``root``."""
    cfg = {'model': config, 'pretrained': str(make_base(root / 'base', config, layout, dtype)), 'tune': tune}
    return (cfg, *make_checkpoint(root / 'iter_1.pth', cfg, encoder))


def through_transformers(out, model, sample):
    """(L,V) of a sample, with our ids and our pixels; columns beyond our vocabulary left out."""
    theirs = AutoModelForImageTextToText.from_pretrained(out, dtype=torch.float32).eval()
    places = {}
    if sample.image_grids:
        places['image_sizes'] = torch.tensor([(height, width) for width, height in sample.image_sizes])
    pixels = model.data_preprocessor.normalize(sample.pixel_values)
    if theirs.config.model_type == 'llava_onevision':
        places['batch_num_images'] = torch.tensor([len(sample.num_tiles)])
    ids = sample.input_ids[None]
    with torch.no_grad():
        got = theirs(input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=pixels, **places).logits[0]
    assert got.shape[-1] >= model.llm.vocab_size
    return got[:, : model.llm.vocab_size]


def exports_right(tmp_path, config, encoder, images, **options):
    """Convert a training; transformers' logits are ours, and its processor's ids and, but for a grey level, pixels."""
    cfg, path, model = trained(tmp_path, config, encoder)
    made = convert(cfg, path, tmp_path / 'out', check='full', **options)
    assert made.measured['difference'] < 1e-5
    sample = encoder.prompt(QUESTION, images)
    got = through_transformers(tmp_path / 'out', model, sample)
    torch.testing.assert_close(got, logits(model, encoder, images, QUESTION), atol=1e-5, rtol=1e-5)
    read, read_encoder = mmft.load(tmp_path / 'out')
    again = logits(read, read_encoder, images, QUESTION)[:, : got.shape[1]]
    torch.testing.assert_close(again, got, atol=1e-5, rtol=1e-5)
    inputs = ask(AutoProcessor.from_pretrained(tmp_path / 'out'), images)
    assert inputs['input_ids'][0].tolist() == sample.input_ids.tolist()
    ours = model.data_preprocessor.normalize(sample.pixel_values)
    theirs = inputs['pixel_values']
    if theirs.dim() == 5:
        theirs = torch.cat([each[:count] for each, count in zip(theirs, sample.num_tiles, strict=True)])
    # torchvision's bicubic against Pillow's: a grey level here and there, two where a picture is enlarged.
    assert (theirs - ours).abs().max() <= 2.1 / 255 / min(model.pixel_std)
    return tmp_path / 'out', model


def ask(processor, images):
    content = [*({'type': 'image', 'image': image} for image in images), {'type': 'text', 'text': QUESTION}]
    return processor.apply_chat_template(
        [{'role': 'user', 'content': content}], add_generation_prompt=True, tokenize=True, return_dict=True,
        return_tensors='pt',
    )  # fmt: skip


@pytest.mark.parametrize('kind', LLMS)
def test_every_language_model(kind, tmp_path, monkeypatch):
    if kind == 'Phi':  # transformers' LLaVA has no bias at the head: test_a_bias_at_the_head
        monkeypatch.setattr(tiny, 'random_model', partial(without_head_bias, tiny.random_model))
    out, model = exports_right(tmp_path, llava_config(kind), llava_encoder(kind), [picture(130, 60), picture(60, 65)])
    config = json.loads((out / 'config.json').read_text())
    assert config['text_config']['architectures'] == [type(model.llm.lm).__name__]
    names = load_file(out / 'model.safetensors').keys()
    assert 'vision_tower.vision_model.encoder.layers.0.self_attn.q_proj.weight' in names  # as LMDeploy wants it
    assert 'language_model.model.embed_tokens.weight' in names


def without_head_bias(build, *arguments):
    model = build(*arguments)
    torch.nn.init.zeros_(model.llm.lm.lm_head.bias)
    return model


TOWERS = {
    'SigLIP, all patches': ('SigLIP', {}, 16),
    'SigLIP, TinyLLaVA': ('SigLIP', {'drop_first': True}, 15),
    'DINOv2': ('DINOv2', {}, 16),
    'DINOv2, class token': ('DINOv2', {'select_feature': 'cls_patch', 'select_layer': -2}, 17),
    'CLIP, class token': ('CLIP', {'select_feature': 'cls_patch'}, 17),
    'CLIP, last layer': ('CLIP', {'select_layer': -1}, 16),
    'CLIP, embeddings': ('CLIP', {'select_layer': 0}, 16),
    'CLIP, counted from below': ('CLIP', {'select_layer': 2}, 16),
    'SigLIP, last layer': ('SigLIP', {'select_layer': -1}, 16),
}


@pytest.mark.parametrize('name', TOWERS)
def test_every_tower(name, tmp_path):
    tower, settings, tokens = TOWERS[name]
    encoder = llava_encoder(image_processor={'type': 'CenterCrop', 'tile_size': 56}, tokens_per_tile=tokens)
    out, _ = exports_right(tmp_path, llava_config(tower=tower, vision=settings), encoder, [picture(130, 60)])
    assert json.loads((out / 'config.json').read_text())['vision_feature_layer'] < 0  # LMDeploy adds it to the depth


@pytest.mark.parametrize('kind', ['PadSquare', 'Resize', 'CenterCrop'])
def test_every_image_processor(kind, tmp_path):
    processor = {'type': kind, 'tile_size': 56}
    encoder = llava_encoder(image_processor=processor | ({'mean': CLIP_MEAN} if kind == 'PadSquare' else {}))
    out, model = exports_right(tmp_path, llava_config(), encoder, [picture(130, 60)])
    exact = ask(AutoProcessor.from_pretrained(out, backend='pil'), [picture(130, 60)])['pixel_values']
    ours = model.data_preprocessor.normalize(encoder.prompt(QUESTION, [picture(130, 60)]).pixel_values)
    torch.testing.assert_close(exact, ours, atol=1e-5, rtol=0)


def test_llava_next(tmp_path):
    images = [picture(130, 60), picture(60, 150), picture(90, 90)]
    out, _ = exports_right(tmp_path, llava_config(**NEXT), llava_encoder(image_processor=ANYRES), images)
    config = json.loads((out / 'config.json').read_text())
    assert config['architectures'] == ['LlavaNextForConditionalGeneration']
    assert config['image_grid_pinpoints'] == [[height, width] for width, height in PINPOINTS]
    assert torch.equal(load_file(out / 'model.safetensors')['image_newline'], mmft.load(out)[0].merge.image_newline)


def test_llava_next_counts_as_we_do(tmp_path):
    """Over many shapes; transformers computes in floats, ours in whole numbers."""
    config, encoder = llava_config(**NEXT), llava_encoder(image_processor=ANYRES)
    processor = AutoProcessor.from_pretrained(make_base(tmp_path / 'out', config, 'hf', encoder=encoder))
    assert isinstance(processor, LlavaNextProcessor)
    sizes = [(w, h) for w in range(1, 1200, 67) for h in range(1, 1200, 71)]
    theirs = processor._get_num_multimodal_tokens([(h, w) for w, h in sizes])['num_image_tokens']
    assert theirs == [encoder.image_processor.num_tokens(w, h, 16) for w, h in sizes]


@pytest.mark.parametrize(
    'sizes',
    [[(130, 60)], [(60, 300)], [(500, 400)], [(3, 2)], [(130, 60), (60, 150), (90, 90)]],
    ids=['wide', 'tall', 'large', 'tiny', 'several'],
)
@pytest.mark.parametrize(('kind', 'tower', 'layer'), [('Qwen2', 'SigLIP', -1), ('Qwen3', 'CLIP', -2)])
def test_llava_onevision(kind, tower, layer, sizes, tmp_path):
    parts = {**ONEVISION_PARTS, 'tower': tower, 'vision': {'select_layer': layer}}
    processor = {**ONEVISION, 'mean': PIXELS[tower]['pixel_mean']}
    config, encoder = llava_config(kind, **parts), llava_encoder(kind, image_processor=processor)
    images = [picture(*size) for size in sizes]
    out, _ = exports_right(tmp_path, config, encoder, images)
    config = json.loads((out / 'config.json').read_text())
    assert config['architectures'] == ['LlavaOnevisionForConditionalGeneration']
    assert (config['vision_aspect_ratio'], config['vision_feature_layer']) == ('anyres_max_4', layer)
    assert torch.equal(load_file(out / 'model.safetensors')['image_newline'], mmft.load(out)[0].merge.image_newline)


def exact_onevision(directory):
    """The processor, with Pillow's pixels: of its part for videos there is torchvision's only."""
    processor = AutoProcessor.from_pretrained(directory)
    processor.image_processor = AutoImageProcessor.from_pretrained(directory, backend='pil')
    return processor


def test_llava_onevision_counts_as_we_do(tmp_path):
    config, encoder = llava_config('Qwen2', **ONEVISION_PARTS), llava_encoder('Qwen2', image_processor=ONEVISION)
    processor = AutoProcessor.from_pretrained(make_base(tmp_path / 'out', config, 'hf', encoder=encoder))
    assert isinstance(processor, LlavaOnevisionProcessor)
    sizes = [(w, h) for w in range(1, 1200, 67) for h in range(1, 1200, 71)]
    theirs = processor._get_num_multimodal_tokens([(h, w) for w, h in sizes])['num_image_tokens']
    assert theirs == [encoder.image_processor.num_tokens(w, h, 16) for w, h in sizes]


def test_turns_and_generation_of_onevision(tmp_path):
    """A picture in each turn: both are one tile. The newest class generates what we do."""
    encoder = llava_encoder('Qwen2', image_processor=ONEVISION)
    cfg, path, model = trained(tmp_path, llava_config('Qwen2', **ONEVISION_PARTS), encoder)
    convert(cfg, path, tmp_path / 'out', check='none')
    processor = exact_onevision(tmp_path / 'out')
    theirs = AutoModelForImageTextToText.from_pretrained(tmp_path / 'out').eval()
    for images in ([picture(150, 100)], [picture(150, 100), picture(40, 90)]):
        turns, history = [], []
        for number, image in enumerate(images):
            turns.append(
                {'role': 'user', 'content': [{'type': 'image', 'image': image}, {'type': 'text', 'text': 'What?'}]}
            )
            history.append({'role': 'user', 'content': '<image>\nWhat?'})
            if number < len(images) - 1:
                turns.append({'role': 'assistant', 'content': [{'type': 'text', 'text': 'Rice rolls.'}]})
                history.append({'role': 'assistant', 'content': 'Rice rolls.'})
        inputs = processor.apply_chat_template(
            turns, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors='pt'
        )
        sample = encoder(history, images, add_generation_prompt=True)
        assert inputs['input_ids'][0].tolist() == sample.input_ids.tolist()
        pixels = model.data_preprocessor.normalize(sample.pixel_values)
        torch.testing.assert_close(inputs['pixel_values'].flatten(0, 1), pixels, atol=1e-5, rtol=0)
        made = theirs.generate(**inputs, max_new_tokens=5)
        arranged = {'image_sizes': torch.tensor(sample.image_sizes), 'image_grids': torch.tensor(sample.image_grids)}
        stop = {'eos_token_id': encoder.stop_token_ids, 'pad_token_id': encoder.pad_token_id, 'do_sample': False}
        want = model.generate(sample.input_ids[None], sample.pixel_values, max_new_tokens=5, **arranged, **stop)
        assert made[0, inputs['input_ids'].shape[1] :].tolist() == want[0].tolist()


def test_turns_and_generation(tmp_path):
    encoder = llava_encoder()
    cfg, path, model = trained(tmp_path, llava_config(), encoder)
    convert(cfg, path, tmp_path / 'out', check='none')
    processor, image = AutoProcessor.from_pretrained(tmp_path / 'out'), picture(56, 56)
    turns = [
        {'role': 'user', 'content': [{'type': 'image', 'image': image}, {'type': 'text', 'text': QUESTION}]},
        {'role': 'assistant', 'content': [{'type': 'text', 'text': 'Rice rolls.'}]},
        {'role': 'user', 'content': [{'type': 'text', 'text': 'Where is it from?'}]},
    ]
    inputs = processor.apply_chat_template(
        turns, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors='pt'
    )
    history = [
        {'role': 'user', 'content': f'<image>\n{QUESTION}'}, {'role': 'assistant', 'content': 'Rice rolls.'}
    ]  # fmt: skip
    sample = encoder.prompt('Where is it from?', [image], history)
    assert inputs['input_ids'][0].tolist() == sample.input_ids.tolist()
    theirs = AutoModelForImageTextToText.from_pretrained(tmp_path / 'out').eval()
    made = theirs.generate(**inputs, max_new_tokens=5)
    stop = {'eos_token_id': encoder.stop_token_ids, 'pad_token_id': encoder.pad_token_id, 'do_sample': False}
    want = model.generate(sample.input_ids[None], sample.pixel_values, max_new_tokens=5, **stop)
    assert made[0, inputs['input_ids'].shape[1] :].tolist() == want[0].tolist()
    settings = GenerationConfig.from_pretrained(tmp_path / 'out')
    assert settings.eos_token_id == encoder.stop_token_ids
    assert settings.pad_token_id == encoder.pad_token_id


# -- what the classes have no place for -------------------------------------------------------------------------------


@pytest.mark.parametrize('kind', ['Llama', 'Qwen2'])
def test_a_placeholder_without_a_row(kind, tmp_path):
    """Vicuna's table has 32000 rows, its placeholder is token 32000: transformers looks it up, so the table grows."""
    encoder = llava_encoder(kind)
    config = llava_config(kind, llm={'vocab_size': encoder.image_token_id})
    out, model = exports_right(tmp_path, config, encoder, [picture(130, 60)])
    text = json.loads((out / 'config.json').read_text())['text_config']
    tensors = load_file(out / 'model.safetensors')
    table = tensors['language_model.model.embed_tokens.weight']
    assert text['vocab_size'] == len(table) == {'Llama': 640, 'Qwen2': 576}[kind]  # multiples of 64
    assert ('language_model.lm_head.weight' in tensors) is (kind == 'Llama')  # Qwen2's is tied
    torch.testing.assert_close(table[-1], table[: encoder.image_token_id].mean(0))
    theirs = AutoModelForImageTextToText.from_pretrained(out).eval()
    sample = encoder.prompt(QUESTION, [picture(56, 56)])
    pixels = model.data_preprocessor.normalize(sample.pixel_values)
    made = theirs(input_ids=sample.input_ids[None], pixel_values=pixels).logits[0]
    assert made.argmax(-1).max() < encoder.image_token_id  # the mean of all logits is never the largest


def test_a_bias_at_the_head(tmp_path):
    encoder, config = llava_encoder('Phi'), llava_config('Phi')
    cfg, path, _ = trained(tmp_path, config, encoder)
    with pytest.raises(ConfigError, match=r'lm_head\.bias is not zero(?s:.*)--layout native'):
        convert(cfg, path, tmp_path / 'out')
    convert(cfg, path, tmp_path / 'native', 'native', check='full')


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_a_scale_at_the_head(dtype, tmp_path):
    """MiniCPM divides its logits; the norm before the head does it in the export, in one rounding."""
    encoder, config = llava_encoder('MiniCPM'), llava_config('MiniCPM')
    cfg, path, model = trained(tmp_path, config, encoder)
    for check in ('full', 'weights'):
        convert(cfg, path, tmp_path / check, dtype=dtype, check=check)
    norm = load_file(tmp_path / 'full' / 'model.safetensors')['language_model.model.norm.weight']
    want = model.llm.lm.model.norm.weight.detach() * (8 / 64)
    torch.testing.assert_close(norm, want.to(getattr(torch, dtype)))
    assert json.loads((tmp_path / 'full' / 'config.json').read_text())['text_config']['logits_scaling'] == 1.0


REFUSED = {
    'another tiler': ({'image_processor': {'type': 'DynamicTiler', 'tile_size': 56}}, {}, 'DynamicTiler'),
    'flat tiles': ({'image_processor': {**ANYRES, 'mode': 'flat'}}, {}, 'AnyResTiler'),
    'fewer tiles': ({'image_processor': {**ANYRES, 'max_tiles': 2}}, NEXT, 'max_tiles=2'),
    'another colour': (
        {'image_processor': {'type': 'PadSquare', 'tile_size': 56, 'mean': [0, 0, 0]}},
        {},
        'pixel_mean',
    ),
    'a larger tile': ({'image_processor': {'type': 'Resize', 'tile_size': 70}, 'tokens_per_tile': 25}, {}, '70 px'),
    'a deeper MLP': ({}, {'projector': {'depth': 3}}, 'two layers'),
    'OneVision in fewer tiles': ({'image_processor': {**ONEVISION, 'max_tiles': 2}}, ONEVISION_PARTS, 'max_tiles=2'),
    'OneVision in another colour': (
        {'image_processor': {**ONEVISION, 'mean': [0, 0, 0]}},
        ONEVISION_PARTS,
        'pixel_mean',
    ),
    'a linear projector': ({}, {'projector': {'type': 'Linear', 'depth': 2}}, 'Linear'),
}


@pytest.mark.parametrize('name', REFUSED)
def test_what_transformers_cannot_do_is_refused(name, tmp_path):
    options, parts, problem = REFUSED[name]
    config = llava_config(**parts)
    if config['projector']['type'] == 'Linear':
        del config['projector']['depth']
    cfg, path, _ = trained(tmp_path, config, llava_encoder(**options))
    with pytest.raises(ConfigError, match=f'{problem}(?s:.*)native'):
        convert(cfg, path, tmp_path / 'out')
    assert not (tmp_path / 'out').exists()
    convert(cfg, path, tmp_path / 'native', 'native', check='full')


@pytest.mark.parametrize('kind', ['CLIP', 'DINOv2'])
def test_adapter_over_a_llava_base(kind, tmp_path):
    tune = {'vision': {'type': 'lora', 'r': 2, 'alpha': 6}, 'projector': 'full', 'llm': {'type': 'lora', 'r': 4}}
    cfg, path, _ = trained(tmp_path, llava_config(tower=kind), llava_encoder(), tune, 'hf')
    made = convert(cfg, path, tmp_path / 'adapter', adapter=True, check='full')
    assert made.measured['difference'] < 1e-5
    settings = json.loads((tmp_path / 'adapter' / 'adapter_config.json').read_text())
    assert settings['base_model_name_or_path'] == cfg['pretrained']
    assert settings['modules_to_save'] == ['model.multi_modal_projector']


def test_adapter_and_a_newline_that_was_trained(tmp_path):
    cfg, path, _ = trained(tmp_path, llava_config(**NEXT), llava_encoder(image_processor=ANYRES), LORA, 'hf')
    with pytest.raises(ConfigError, match=r"merge\.image_newline'\] were trained in full"):
        convert(cfg, path, tmp_path / 'adapter', adapter=True)
    tune = {**LORA, 'projector': {'type': 'lora', 'r': 2}}
    path, _ = make_checkpoint(tmp_path / 'iter_2.pth', {**cfg, 'tune': tune}, llava_encoder(image_processor=ANYRES))
    made = convert({**cfg, 'tune': tune}, path, tmp_path / 'adapter', adapter=True, check='full')
    assert made.measured['difference'] < 1e-5


def test_other_pixel_statistics_than_the_towers(tmp_path):
    """A SigLIP tower that saw CLIP's numbers: the processor's file says so, and mmft.load takes them from there."""
    pixels = {'pixel_mean': CLIP_MEAN, 'pixel_std': CLIP_STD}
    out, _ = exports_right(tmp_path, llava_config(tower='SigLIP', **pixels), llava_encoder(), [picture(130, 60)])
    assert list(mmft.load(out)[0].pixel_mean) == CLIP_MEAN
    (out / 'processor_config.json').unlink()
    assert list(mmft.load(out)[0].pixel_mean) == CLIP_MEAN
