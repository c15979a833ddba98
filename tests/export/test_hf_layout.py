"""HF-native exports, opened by transformers' own classes."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from transformers import AutoProcessor, GenerationConfig, InternVLForConditionalGeneration
from transformers.models.got_ocr2.image_processing_got_ocr2 import get_optimal_tiled_canvas

import mmft
from mmft.checkpoint import load, read_layout
from mmft.data import DynamicTiler
from mmft.errors import ConfigError
from mmft.export import convert
from mmft.models.language.family import held_by
from tests.export.tiny import LORA, logits, make_base, make_checkpoint, make_encoder, model_config, picture
from tests.helpers import GOLDEN, INTERNVL_CASES, golden_json, golden_tensors


def holds(case: str) -> bool:
    config = golden_json(case, 'config.json')
    return config['ps_version'] == 'v2' and config['select_layer'] == -1


@pytest.mark.parametrize('case', [case for case in INTERNVL_CASES if holds(case)])
def test_golden_logits_through_transformers(case, tmp_path):
    """The original's numbers, from the class that transformers, LMDeploy and vLLM know."""
    image_token_id = golden_json(case, 'results.json')['img_context_token_id']
    model, _ = load(GOLDEN / case, dtype='float32')
    config = {**model_config_of(case), 'image_token_id': image_token_id}
    convert({'pretrained': str(GOLDEN / case), 'model': config}, None, tmp_path / 'out', dtype='float32', check='none')
    theirs = InternVLForConditionalGeneration.from_pretrained(tmp_path / 'out', dtype=torch.float32).eval()
    ours, _ = mmft.load(tmp_path / 'out')
    inputs, outputs = golden_tensors(case, 'inputs'), golden_tensors(case, 'outputs')
    pixels = inputs['pixel_values'][inputs['image_flags'].flatten() == 1]
    mask = inputs['attention_mask'].bool()
    model.image_token_id = image_token_id
    with torch.no_grad():
        want = model(inputs['input_ids'], inputs['attention_mask'], pixels, mode='tensor')
        got = theirs(input_ids=inputs['input_ids'], attention_mask=inputs['attention_mask'], pixel_values=pixels).logits
        again = ours(inputs['input_ids'], inputs['attention_mask'], pixels, mode='tensor')
    torch.testing.assert_close(got[mask], want[mask], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(got[mask], outputs['logits'][mask], atol=1e-5, rtol=1e-5)
    assert torch.equal(again, want)


def model_config_of(case: str) -> dict:
    return read_layout(GOLDEN / case).model_config


def test_a_case_it_cannot_hold_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r'(?s)shuffle v1.*--layout official.*select_layer -2'):
        convert({'pretrained': str(GOLDEN / 'internvl2_internlm2_rms_qknorm_v1')}, None, tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


FORMS = {
    # What InternVL2-26B's tower has, and what no golden case of this layout shows.
    'rms norm, q/k norm': {'vision': {'norm_type': 'rms_norm', 'qk_normalization': True, 'qkv_bias': False}},
    'q/k norm beside LayerNorm': {'vision': {'qk_normalization': True}},
    'attention bias, linear rope': {'llm': {'bias': True, 'rope_scaling': {'type': 'linear', 'factor': 2.0}}},
    'quarter scale': {'vision': {'image_size': 112}, 'projector': {'scale': 0.25}},
}


@pytest.mark.parametrize('form', FORMS)
def test_forms_of_the_parts(form, tmp_path):
    config = model_config(vocab_size=64)
    for part, settings in FORMS[form].items():
        config[part].update(settings)
    directory = make_base(tmp_path / 'out', {**config, 'image_token_id': 60}, layout='hf')
    ours, _ = mmft.load(directory)
    theirs = InternVLForConditionalGeneration.from_pretrained(directory).eval()
    ids = torch.randint(3, 60, (1, 6 + 2 * ours.tokens_per_tile), generator=torch.Generator().manual_seed(0))
    ids[:, 2 : 2 + 2 * ours.tokens_per_tile] = 60
    pixels = torch.rand(2, 3, ours.vision.image_size, ours.vision.image_size)
    with torch.no_grad():
        got = theirs(input_ids=ids, pixel_values=pixels).logits
        torch.testing.assert_close(got, ours(ids, pixel_values=pixels, mode='tensor'), atol=1e-5, rtol=1e-5)


@pytest.fixture(scope='module', params=held_by('internvl_hf'))
def exported(request, tmp_path_factory):
    """(training model, its encoder, export directory) of a LoRA run on each kind of language model."""
    root = tmp_path_factory.mktemp(request.param)
    encoder, config = make_encoder(request.param), model_config(request.param)
    cfg = {'model': config, 'pretrained': str(make_base(root / 'base', config, encoder=encoder)), 'tune': LORA}
    path, model = make_checkpoint(root / 'iter_1.pth', cfg, encoder)
    made = convert(cfg, path, root / 'out', check='weights')
    assert made.check == 'weights'
    return model, encoder, root / 'out'


def test_logits_and_greedy_answer(exported):
    model, encoder, out = exported
    theirs = InternVLForConditionalGeneration.from_pretrained(out).eval()
    sample = encoder.prompt('What dish is it?', [picture()])
    pixels = model.data_preprocessor.normalize(sample.pixel_values)
    ids = sample.input_ids[None]
    with torch.no_grad():
        got = theirs(input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=pixels).logits[0]
        answer = theirs.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=pixels, max_new_tokens=5, do_sample=False
        )
    torch.testing.assert_close(got, logits(model, encoder, [picture()]), atol=1e-5, rtol=1e-5)
    stop = {'eos_token_id': encoder.stop_token_ids, 'pad_token_id': encoder.pad_token_id, 'do_sample': False}
    want = model.generate(ids, sample.pixel_values, max_new_tokens=5, **stop)
    assert answer[0, ids.shape[1] :].tolist() == want[0].tolist()
    made = GenerationConfig.from_pretrained(out)
    assert made.eos_token_id == encoder.stop_token_ids
    assert made.pad_token_id == encoder.pad_token_id


def test_processor_gives_our_tokens_and_tiles(exported):
    model, encoder, out = exported
    processor = AutoProcessor.from_pretrained(out)
    image = picture(130, 60)
    content = [{'type': 'image', 'image': image}, {'type': 'text', 'text': 'What dish is it? 这是什么菜？'}]
    got = processor.apply_chat_template(
        [{'role': 'user', 'content': content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors='pt',
    )
    want = encoder.prompt('What dish is it? 这是什么菜？', [image])
    assert got['input_ids'][0].tolist() == want.input_ids.tolist()
    assert got['pixel_values'].shape == want.pixel_values.shape
    # torchvision's bicubic on uint8 against Pillow's, which the original uses: a grey level here and there.
    ours = model.data_preprocessor.normalize(want.pixel_values)
    assert (got['pixel_values'] - ours).abs().max() <= 2.5 / 255 / min(model.pixel_std)
    turns = [
        {'role': 'user', 'content': content},
        {'role': 'assistant', 'content': [{'type': 'text', 'text': 'Rice rolls.'}]},
        {'role': 'user', 'content': [{'type': 'text', 'text': 'Where is it from?'}]},
    ]
    got = processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=True, return_dict=True)
    history = [
        {'role': 'user', 'content': '<image>\nWhat dish is it? 这是什么菜？'},
        {'role': 'assistant', 'content': 'Rice rolls.'},
    ]
    want = encoder.prompt('Where is it from?', [image], history)
    assert list(np.ravel(got['input_ids'])) == want.input_ids.tolist()


def test_mmft_load_restores_the_encoder(exported):
    _, encoder, out = exported
    _, read = mmft.load(out)
    drop = {'tokenizer'}
    assert {k: v for k, v in read.to_dict().items() if k not in drop} == {
        k: v for k, v in encoder.to_dict().items() if k not in drop
    }
    messages = [{'role': 'user', 'content': '<image>\nHi  there'}, {'role': 'assistant', 'content': 'Dim sum. 肠粉'}]
    one, two = encoder(messages, [picture()]), read(messages, [picture()])
    assert torch.equal(one.input_ids, two.input_ids)
    assert torch.equal(one.labels, two.labels)
    assert torch.equal(one.pixel_values, two.pixel_values)


def test_config_says_what_lmdeploy_reads(exported):
    model, encoder, out = exported
    config = json.loads((out / 'config.json').read_text())
    assert config['architectures'] == ['InternVLForConditionalGeneration']
    assert config['text_config']['architectures'] == [type(model.llm.lm).__name__]
    assert config['dtype'] == config['text_config']['dtype'] == 'float32'
    assert config['tie_word_embeddings'] is config['text_config']['tie_word_embeddings'] is False
    assert config['image_token_id'] == encoder.image_token_id
    assert config['image_seq_length'] == 4
    assert config['text_config']['max_position_embeddings'] == 512
    tokens = json.loads((out / 'tokenizer_config.json').read_text())['extra_special_tokens']
    assert tokens['context_image_token'] == '<IMG_CONTEXT>'


@pytest.mark.parametrize(
    ('tiler', 'problem'),
    [
        ({'type': 'PadSquare', 'tile_size': 56}, 'PadSquare'),
        ({'type': 'DynamicTiler', 'tile_size': 56, 'max_tiles': 6, 'thumbnail': False}, 'thumbnail=False'),
    ],
)
def test_an_image_processor_it_cannot_do_is_refused(tiler, problem, tmp_path):
    encoder, config = make_encoder(image_processor=tiler), model_config()
    cfg = {'model': config, 'pretrained': str(make_base(tmp_path / 'base', config)), 'tune': LORA}
    path, _ = make_checkpoint(tmp_path / 'iter_1.pth', cfg, encoder)
    with pytest.raises(ConfigError, match=problem):
        convert(cfg, path, tmp_path / 'out')
    made = convert(cfg, path, tmp_path / 'official', 'official', check='full')
    assert made.measured['difference'] < 1e-5


def test_tied_embeddings_stay_tied(tmp_path):
    encoder, config = make_encoder('Qwen2'), model_config('Qwen2', tie_word_embeddings=True)
    cfg = {
        'model': config,
        'pretrained': str(make_base(tmp_path / 'base', config, 'hf', encoder=encoder)),
        'tune': LORA,
    }
    path, model = make_checkpoint(tmp_path / 'iter_1.pth', cfg, encoder)
    want = logits(model, encoder, [picture()])
    convert(cfg, path, tmp_path / 'hf', check='none')
    theirs = InternVLForConditionalGeneration.from_pretrained(tmp_path / 'hf').eval()
    assert theirs.lm_head.weight is theirs.model.language_model.embed_tokens.weight
    # OpenGVLab's configuration unties every language model, so that layout gets a copy.
    convert(cfg, path, tmp_path / 'official', 'official', check='none')
    for name in ('hf', 'official'):
        read, _ = mmft.load(tmp_path / name)
        torch.testing.assert_close(logits(read, encoder, [picture()]), want, atol=1e-5, rtol=1e-5)


def test_tiling_rules_of_transformers_and_ours():
    """transformers orders candidate grids by columns within an area, OpenGVLab by a set's hash order.

    That could show only where two candidates tie: never with min_tiles=1 as InternVL2 uses it, over many sizes.
    """
    tiler = DynamicTiler(tile_size=448, min_tiles=1, max_tiles=12)
    sizes = [(w, h) for w in range(1, 2600, 61) for h in range(1, 2600, 67)]
    sizes += [(k * a, k * b) for a in range(1, 25) for b in range(1, 25) for k in (1, 30, 111, 224, 449)]
    differ = [(w, h) for w, h in sizes if get_optimal_tiled_canvas((h, w), (448, 448), 1, 12) != tiler.grid(w, h)]
    assert differ == []


def test_tiles_of_directories_with_two_processor_files(tmp_path):
    """OpenGVLab's own ``-hf`` directories: processor_config.json is there, and the numbers are in the other file."""
    path = make_base(tmp_path / 'base', model_config(vocab_size=603), 'hf', encoder=make_encoder())
    processor = json.loads((path / 'processor_config.json').read_text())
    images = {**processor.pop('image_processor'), 'min_patches': 2, 'max_patches': 5}
    (path / 'processor_config.json').write_text(json.dumps(processor))
    (path / 'preprocessor_config.json').write_text(json.dumps(images))
    tiler = read_layout(path).encoder_config(path)['image_processor']
    assert (tiler['min_tiles'], tiler['max_tiles']) == (2, 5)
