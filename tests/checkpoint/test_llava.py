"""LLaVA and TinyLLaVA directories as they are published: read, with the numbers of the originals, and written back."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import mmft
from mmft.checkpoint import TensorDirectory, build_meta, read_layout
from mmft.errors import CheckpointError, ConfigError, MMFTError
from mmft.layouts import LlavaOfficial, TinyLlava, layout_for
from mmft.layouts.llava_official import image_processor
from mmft.layouts.vision import vision_tower
from mmft.structures import IGNORE_INDEX
from tests.helpers import GOLDEN, golden_json, golden_tensors
from tests.models.test_llava_golden import CASES, IMAGE, batch, compare_logits, mode, samples

TOLERANCE = {'atol': 1e-5, 'rtol': 1e-5}
TINY = 'tinyllava_model'
TOWER = 'model.vision_tower.vision_tower.'


def convert(steps, tensors):
    out = {}
    for step in steps:
        out |= step(tensors.__getitem__)
    return out


@pytest.mark.parametrize('name', CASES)
def test_the_numbers_of_the_original(name):
    model, encoder = mmft.load(GOLDEN / name, dtype='float32')
    assert encoder is None  # the case holds no tokenizer
    model.image_token_id = IMAGE  # no token of the vocabulary: its slots are filled all the same
    made, outputs = samples(model, name, mode(name)), golden_tensors(name, 'outputs')
    inputs = batch(model, made)
    with torch.no_grad():
        logits, loss = model(**inputs, mode='tensor'), model(**inputs)['loss']
    compare_logits(logits, inputs['attention_mask'], outputs)
    torch.testing.assert_close(loss, outputs['loss'], **TOLERANCE)
    want = golden_json(name, 'generate.json')['text']
    options = {'max_new_tokens': 10, 'do_sample': False, 'pad_token_id': 0, 'eos_token_id': None}
    # The original puts a begin token before the new ones.
    assert model.generate(torch.tensor([want['input_ids']]), **options)[0].tolist() == want['output_ids'][1:]


def test_the_numbers_of_tinyllava():
    """Picture 1 is the dummy that its text-only sample owns; here that sample has none."""
    model, _ = mmft.load(GOLDEN / TINY, dtype='float32')
    model.image_token_id = IMAGE
    inputs, outputs = golden_tensors(TINY, 'inputs'), golden_tensors(TINY, 'outputs')
    rows, labels = [], []
    for ids, label, real in zip(inputs['input_ids'], inputs['labels'], inputs['attention_mask'].bool(), strict=True):
        times = torch.where(ids[real] == IMAGE, model.tokens_per_tile, 1)
        rows.append(ids[real].repeat_interleave(times))
        labels.append(label[real].masked_fill(ids[real] == IMAGE, IGNORE_INDEX).repeat_interleave(times))
    pad = torch.nn.utils.rnn.pad_sequence
    mask = outputs['merge/attention_mask'].bool()
    labels = pad(labels, batch_first=True, padding_value=IGNORE_INDEX)
    assert torch.equal(labels, outputs['merge/labels'])
    given = {
        'input_ids': pad(rows, batch_first=True),
        'attention_mask': mask,
        'pixel_values': inputs['images'][[0, 2, 3]],
    }
    with torch.no_grad():
        logits, loss = model(**given, mode='tensor'), model(**given, labels=labels)['loss']
    torch.testing.assert_close(logits[mask], outputs['logits'][mask], **TOLERANCE)
    torch.testing.assert_close(loss, outputs['loss'], **TOLERANCE)


@pytest.mark.parametrize('name', [*CASES, TINY])
def test_every_tensor_there_and_back(name):
    layout, theirs = read_layout(GOLDEN / name), TensorDirectory(GOLDEN / name)
    assert isinstance(layout, TinyLlava if name == TINY else LlavaOfficial)
    ours = convert(layout.to_ours(theirs), theirs)
    written = layout if name == TINY else layout_for('official', layout.model_config)
    for other in (written, layout_for('native', layout.model_config)):
        there = convert(other.to_theirs(ours), ours)
        back = convert(other.to_ours(there), there)
        assert back.keys() == ours.keys()
        assert all(torch.equal(back[key], ours[key]) for key in ours)
    there = convert(written.to_theirs(ours), ours)
    assert set(there) == set(theirs)
    assert all(there[key].dtype == value.dtype and torch.equal(there[key], value) for key, value in theirs.items())


def test_what_cannot_be_written_says_why():
    model = read_layout(GOLDEN / CASES[1]).model_config
    with pytest.raises(ConfigError) as error:
        layout_for('hf', model)
    for part in (
        'InternVLForConditionalGeneration',
        'the projector Linear',
        'LlavaNextForConditionalGeneration',
        'native',
    ):
        assert part in str(error.value)
    with pytest.raises(ConfigError, match='drops the first'):
        TinyLlava.from_model({**model, 'vision': {'type': 'SigLIP'}})
    with pytest.raises(ConfigError, match="layout 'mmft'"):
        layout_for('mmft', model)


@pytest.fixture
def apart(tmp_path):
    """llava15 as LLaVA's own training leaves it: the tower in a directory of its own, which ``config.json`` names."""
    model, tower = tmp_path / 'llava', tmp_path / 'clip-tiny'
    model.mkdir()
    tower.mkdir()
    tensors = load_file(GOLDEN / 'llava15' / 'model.safetensors')
    inside = {key: value for key, value in tensors.items() if key.startswith(TOWER)}
    save_file({key: value for key, value in tensors.items() if key not in inside}, model / 'model.safetensors')
    own = {key.removeprefix(TOWER): value for key, value in inside.items()}
    # A whole CLIP, its text half and a buffer of older versions included.
    more = {'text_model.embeddings.token_embedding.weight': torch.ones(3, 2), 'logit_scale': torch.ones(())}
    position_ids = {'vision_model.embeddings.position_ids': torch.arange(17)[None]}
    torch.save({**own, **more, **position_ids}, tower / 'pytorch_model.bin')
    numbers = golden_json('llava15', 'vision_config.json')
    (tower / 'config.json').write_text(json.dumps({'model_type': 'clip', 'vision_config': numbers}))
    config = golden_json('llava15', 'config.json')
    (model / 'config.json').write_text(json.dumps({**config, 'mm_vision_tower': 'openai/clip-tiny'}))
    return model, tower


def test_a_tower_beside_the_weights(apart, tmp_path):
    model, tower = apart
    want = mmft.load(GOLDEN / 'llava15')[0].state_dict()
    got = mmft.load(model)[0].state_dict()
    assert all(torch.equal(got[key], want[key]) for key in want)
    tower.rename(tmp_path / 'elsewhere')
    with pytest.raises(CheckpointError, match=r"needs the vision tower 'openai/clip-tiny'.*clip-tiny"):
        mmft.load(model)
    got = mmft.load(model, vision=tmp_path / 'elsewhere')[0].state_dict()
    assert all(torch.equal(got[key], want[key]) for key in want)


def test_a_run_that_began_with_a_language_model(tmp_path):
    """Its ``architectures`` still names that; what the directory is, its settings and keys tell."""
    shutil.copytree(GOLDEN / 'llava15', tmp_path / 'vicuna')
    config = golden_json('llava15', 'config.json')
    for named in ({'architectures': ['LlamaForCausalLM'], 'model_type': 'llava'}, {'model_type': 'unheard_of'}):
        path = tmp_path / 'vicuna' / 'config.json'
        path.chmod(0o644)
        path.write_text(json.dumps({**config, **named}))
        assert read_layout(tmp_path / 'vicuna').model_config['llm']['type'] == 'Llama'


def test_the_encoder_that_a_config_describes():
    encoder = read_layout(GOLDEN / 'llava15').encoder_config(GOLDEN)
    assert encoder['image_processor']['type'] == 'PadSquare'
    assert encoder['image_processor']['mean'] == [0.48145466, 0.4578275, 0.40821073]
    assert (encoder['image_token'], encoder['image_start'], encoder['template']) == ('<image>', '', 'vicuna_v1')
    tiler = read_layout(GOLDEN / 'llava16_anyres').encoder_config(GOLDEN)['image_processor']
    assert (tiler['type'], tiler['mode'], tiler['grid_pinpoints'][0]) == ('AnyResTiler', 'spatial_unpad', [42, 84])
    square = read_layout(GOLDEN / 'llava15_linear_cls_patch').encoder_config(GOLDEN)['image_processor']
    assert square['type'] == 'CenterCrop'


@pytest.mark.parametrize(
    ('file', 'text', 'template'),
    [
        ('added_tokens.json', '{"<|im_start|>": 64000}', 'chatml'),  # as LLaVA-1.6-34B
        ('tokenizer_config.json', '{"chat_template": "..."}', 'vicuna_v1'),
    ],
)
def test_a_llama_s_tokenizer_tells_its_chat_template(file, text, template, tmp_path):
    (tmp_path / file).write_text(text)
    for case in ('llava15', 'llava16_anyres'):
        assert read_layout(GOLDEN / case).encoder_config(tmp_path)['template'] == template


@pytest.mark.parametrize(
    'wrong', [{'mm_projector_type': 3}, {'image_aspect_ratio': 'anyres', 'image_grid_pinpoints': [[336]]}]
)
def test_a_config_with_a_value_of_another_kind(wrong, tmp_path):
    shutil.copytree(GOLDEN / 'llava16_anyres', tmp_path / 'odd')
    path = tmp_path / 'odd' / 'config.json'
    path.chmod(0o644)
    path.write_text(json.dumps({**golden_json('llava16_anyres', 'config.json'), **wrong}))
    for file in (GOLDEN / 'tokenizers' / 'llama_nonlegacy').iterdir():
        if file.name != 'config.json':
            shutil.copyfile(file, tmp_path / 'odd' / file.name)
    with pytest.raises(MMFTError, match=r'mm_projector_type|cannot be read|pinpoint'):
        mmft.load(tmp_path / 'odd')


def test_several_scales_are_refused(tmp_path):
    shutil.copytree(GOLDEN / 'llava15', tmp_path / 's2')
    path = tmp_path / 's2' / 'config.json'
    path.chmod(0o644)
    path.write_text(json.dumps({**golden_json('llava15', 'config.json'), 's2': True}))
    with pytest.raises(CheckpointError, match='s2'):
        mmft.load(tmp_path / 's2')


def test_words_of_a_config_that_change_the_encoder_or_the_merge():
    config = golden_json('llava16_anyres', 'config.json')

    def read(**changes):
        return LlavaOfficial.from_config({**config, 'mm_vision_tower': 'openai/clip-vit-large-patch14', **changes})

    assert read().model_config['merge']['unpad']
    # One tile per picture is never merged, whatever the config has inherited.
    for aspect in ('pad', 'square', None):
        assert 'merge' not in read(image_aspect_ratio=aspect).model_config
    # What is neither padded nor tiled goes through the tower's own processor.
    for tower, kind in (('CLIP', 'CenterCrop'), ('SigLIP', 'Resize')):
        options, model = {'image_aspect_ratio': 'square'}, {'vision': {'type': tower, 'image_size': 56}}
        assert image_processor(options, model) == {'type': kind, 'tile_size': 56}
    encoder = read(mm_use_im_start_end=True).encoder_config(GOLDEN)
    assert (encoder['image_start'], encoder['image_token'], encoder['image_end']) == (
        '<im_start>', '<image>', '<im_end>')  # fmt: skip
    onevision = read(image_aspect_ratio='anyres_max_9')
    assert onevision.model_config['merge']['shrink_to'] == 9
    assert onevision.encoder_config(GOLDEN)['image_processor']['type'] == 'OneVisionTiler'
    with pytest.raises(CheckpointError, match='anyres_max_9 with mm_patch_merge_type'):
        read(image_aspect_ratio='anyres_max_9', mm_patch_merge_type='spatial')
    with pytest.raises(CheckpointError, match="'anyres_min_9'"):
        read(image_aspect_ratio='anyres_min_9')


def test_a_directory_with_a_tokenizer(tmp_path):
    """Its vocabulary has no <image>: the encoder adds one, whose slots need no row in the embedding."""
    for name in ('config.json', 'vision_config.json', 'model.safetensors'):
        shutil.copyfile(GOLDEN / 'llava15' / name, tmp_path / name)
    for file in (GOLDEN / 'tokenizers' / 'llama_nonlegacy').iterdir():
        if file.name != 'config.json':
            shutil.copyfile(file, tmp_path / file.name)
    model, encoder = mmft.load(tmp_path)
    assert model.image_token_id == encoder.image_token_id == encoder.tokenizer.convert_tokens_to_ids('<image>')
    assert encoder.tokens_per_tile == model.tokens_per_tile == 16
    sample = encoder.prompt('What is this?', [Image.new('RGB', (80, 40))])
    assert int((sample.input_ids == encoder.image_token_id).sum()) == 16
    assert tuple(sample.pixel_values.shape) == (1, 3, 56, 56)


def test_the_two_towers_of_a_mixture():
    """TinyLLaVA's MoF: CLIP's and DINOv2's own names."""
    config, tensors = golden_json('tower_mof', 'config.json'), golden_tensors('tower_mof', 'model')
    towers = [vision_tower(config['clip'], 'clip'), vision_tower(config['dinov2'], 'dinov2')]
    llm = {'type': 'Llama', 'vocab_size': 8, 'hidden_size': 8, 'num_hidden_layers': 1, 'num_attention_heads': 1}
    model = {'type': 'VLM', 'vision': {'type': 'MoFTower', 'towers': towers}, 'projector': {'type': 'MoFMLP'},
             'llm': {**llm, 'intermediate_size': 8}}  # fmt: skip
    layout = TinyLlava(model)
    theirs = {f'vision_tower.{key}': value for key, value in tensors.items()}
    ours = convert(layout.to_ours(theirs), theirs)
    names = {name for name, _ in build_meta(model).named_parameters() if name.startswith('vision.')}
    assert set(ours) == names
    back = convert(layout.to_theirs(ours), ours)
    assert back.keys() == theirs.keys()
    assert all(torch.equal(back[key], value) for key, value in theirs.items())
