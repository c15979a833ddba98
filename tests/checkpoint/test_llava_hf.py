"""transformers' LLaVA classes: what they save is read and gives their numbers; what is written has LMDeploy's names."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file
from transformers import (
    CLIPVisionConfig,
    Dinov2Config,
    LlamaConfig,
    LlavaForConditionalGeneration,
    LlavaNextForConditionalGeneration,
    LlavaOnevisionForConditionalGeneration,
    MistralConfig,
    PhiConfig,
    Qwen2Config,
    SiglipVisionConfig,
)

import mmft
from mmft.checkpoint import TensorDirectory, read_layout
from mmft.errors import CheckpointError
from mmft.layouts import LAYOUTS, layout_for
from mmft.registry import IMAGE_PROCESSORS
from tests.checkpoint.test_llava import convert

SIZES = dict(hidden_size=16, num_attention_heads=2, num_hidden_layers=3)
TEXT = dict(vocab_size=64, num_key_value_heads=2, intermediate_size=32, pad_token_id=0, **SIZES)
TOWER = dict(image_size=28, patch_size=7, **SIZES)
IMAGE = 60
GRID = [[28, 56], [56, 28], [56, 56], [84, 28]]  # (height, width)


def save(cls, directory, vision, text, **options):
    config = {'vision_config': vision, 'text_config': text, 'image_token_index': IMAGE, **options}
    torch.manual_seed(0)
    model = cls(cls.config_class(**config)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2)
    model.save_pretrained(directory)
    return model


@pytest.mark.parametrize(
    ('vision', 'text', 'strategy', 'layer'),
    [
        (CLIPVisionConfig(intermediate_size=32, **TOWER), LlamaConfig(**TEXT), 'default', -2),
        (CLIPVisionConfig(intermediate_size=32, **TOWER), Qwen2Config(**TEXT, tie_word_embeddings=True), 'full', -1),
        (SiglipVisionConfig(intermediate_size=32, **TOWER), MistralConfig(**TEXT), 'full', -1),
        (SiglipVisionConfig(intermediate_size=32, **TOWER), LlamaConfig(**TEXT), 'default', -3),
        (Dinov2Config(mlp_ratio=2, **TOWER), PhiConfig(**TEXT), 'default', -2),
    ],
    ids=['clip', 'clip-full-tied', 'siglip', 'siglip-first-dropped', 'dinov2-phi'],
)
def test_llava(tmp_path, vision, text, strategy, layer):
    options = {'vision_feature_select_strategy': strategy, 'vision_feature_layer': layer}
    theirs = save(LlavaForConditionalGeneration, tmp_path, vision, text, **options)
    ours, _ = mmft.load(tmp_path)
    assert ours.image_token_id == IMAGE
    text_ids = torch.arange(1, 9)[None]
    slots = torch.full((1, 2 * ours.tokens_per_tile), IMAGE)
    inputs = {'input_ids': torch.cat([text_ids, slots, text_ids], 1), 'pixel_values': torch.randn(2, 3, 28, 28)}
    with torch.no_grad():
        torch.testing.assert_close(ours(**inputs, mode='tensor'), theirs(**inputs).logits, atol=1e-5, rtol=1e-5)


def test_llava_next(tmp_path):
    vision = CLIPVisionConfig(intermediate_size=32, **TOWER)
    theirs = save(LlavaNextForConditionalGeneration, tmp_path, vision, LlamaConfig(**TEXT), image_grid_pinpoints=GRID)
    ours, _ = mmft.load(tmp_path)
    tiler = read_layout(tmp_path).encoder_config(tmp_path)['image_processor']
    assert tiler['grid_pinpoints'] == [[56, 28], [28, 56], [56, 56], [28, 84]]  # (width, height)
    grid = IMAGE_PROCESSORS.build(tiler).grid(50, 30)
    tiles = torch.randn(1 + grid[0] * grid[1], 3, 28, 28)
    given = {'image_sizes': torch.tensor([[50, 30]]), 'image_grids': torch.tensor([grid])}
    with torch.no_grad():
        features = ours.picture_tokens(tiles, **given)
        ids = torch.cat([torch.arange(1, 9), torch.full((len(features),), IMAGE), torch.arange(1, 9)])[None]
        got = ours(ids, pixel_values=tiles, mode='tensor', **given)
        want = theirs(input_ids=ids, pixel_values=tiles[None], image_sizes=torch.tensor([[30, 50]])).logits
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)


def save_onevision(directory, pinpoints=None, **options):
    vision = SiglipVisionConfig(intermediate_size=32, vision_use_head=False, **TOWER)
    pinpoints = pinpoints or [[28 * rows, 28 * columns] for rows in range(1, 7) for columns in range(1, 7)]
    options = {'image_grid_pinpoints': pinpoints, 'vision_aspect_ratio': 'anyres_max_4', **options}
    return save(LlavaOnevisionForConditionalGeneration, directory, vision, Qwen2Config(**TEXT), **options)


@pytest.mark.parametrize('sizes', [[(50, 30)], [(40, 300)], [(300, 40)], [(160, 150)], [(2, 1)], [(50, 30), (30, 90)]])
def test_llava_onevision(tmp_path, sizes):
    """What is large is shrunk, several pictures are a tile each."""
    theirs = save_onevision(tmp_path)
    ours, _ = mmft.load(tmp_path)
    assert (ours.merge.shrink_to, ours.vision.select_layer, len(ours.vision.layers)) == (4, -1, 3)
    processor = IMAGE_PROCESSORS.build(read_layout(tmp_path).encoder_config(tmp_path)['image_processor'])
    limit = processor.share(len(sizes))
    grids = [processor.grid(*size, limit) for size in sizes]
    tiles = [torch.randn(processor.num_tiles(*size, limit), 3, 28, 28) for size in sizes]
    given = {'image_sizes': torch.tensor(sizes), 'image_grids': torch.tensor(grids)}
    text = torch.arange(1, 9)
    slots = torch.full((sum(processor.num_tokens(*size, 16, limit) for size in sizes),), IMAGE)
    ids = torch.cat([text, slots, text])[None]
    inputs = {
        'input_ids': ids,
        'attention_mask': torch.ones_like(ids),
        'pixel_values': torch.nn.utils.rnn.pad_sequence(tiles, batch_first=True),
        'image_sizes': given['image_sizes'].flip(1),
        'batch_num_images': torch.tensor([len(sizes)]),
    }
    with torch.no_grad():
        got = ours(ids, pixel_values=torch.cat(tiles), mode='tensor', **given)
        torch.testing.assert_close(got, theirs(**inputs).logits, atol=1e-5, rtol=1e-5)
        made = ours.generate(ids, torch.cat(tiles), max_new_tokens=5, do_sample=False, pad_token_id=0, **given)
        want = theirs.generate(**inputs, max_new_tokens=5, do_sample=False, pad_token_id=0)
    assert made.tolist() == want[:, ids.shape[1] :].tolist()


def test_onevision_as_its_own_program_writes_it(tmp_path):
    """``LlavaQwenForCausalLM``: the tower that it names has one block more than the weights, whose last is taken."""
    save_onevision(tmp_path / 'hf')
    ours, _ = mmft.load(tmp_path / 'hf')
    names = {'multi_modal_projector.linear_1.': 'model.mm_projector.0.', 'image_newline': 'model.image_newline',
             'multi_modal_projector.linear_2.': 'model.mm_projector.2.', 'language_model.model.': 'model.',
             'vision_tower.': 'model.vision_tower.vision_tower.', 'language_model.lm_head.': 'lm_head.'}  # fmt: skip
    layout, state = layout_for('hf', read_layout(tmp_path / 'hf').model_config), ours.state_dict()
    tensors = convert(layout.to_theirs(state), state)
    for theirs, own in names.items():
        tensors = {own + key[len(theirs) :] if key.startswith(theirs) else key: t for key, t in tensors.items()}
    directory = tmp_path / 'official'
    directory.mkdir()
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, directory / 'model.safetensors')
    tower = {'model_type': 'siglip_vision_model', 'intermediate_size': 32, **TOWER, 'num_hidden_layers': 4}
    config = {**Qwen2Config(**TEXT).to_dict(), 'architectures': ['LlavaQwenForCausalLM'], 'model_type': 'llava',
              'mm_vision_tower': 'google/siglip-so400m-patch14-384', 'mm_vision_select_layer': -2,
              'mm_projector_type': 'mlp2x_gelu', 'mm_patch_merge_type': 'spatial_unpad',
              'image_aspect_ratio': 'anyres_max_4', 'image_grid_pinpoints': [[28, 28], [56, 28], [84, 84]]}  # fmt: skip
    for name, content in (('config.json', config), ('vision_config.json', tower)):
        (directory / name).write_text(json.dumps(content))
    read, _ = mmft.load(directory)
    tiler = read_layout(directory).encoder_config(directory)
    assert tiler['template'] == 'qwen2'
    assert tiler['image_processor'] == {
        'type': 'OneVisionTiler', 'tile_size': 28, 'shrink_to': 4, 'mean': [0.5] * 3,
        'grid_pinpoints': [[28, 28], [56, 28], [84, 84]],
    }  # fmt: skip
    given = {'image_sizes': torch.tensor([[90, 80]]), 'image_grids': torch.tensor([[3, 3]])}
    tiles = torch.randn(10, 3, 28, 28)
    count = ours.merge.num_tokens([(90, 80)], [(3, 3)], 16)[0]
    ids = torch.cat([torch.arange(1, 9), torch.full((count,), IMAGE), torch.arange(1, 9)])[None]
    read.image_token_id = IMAGE
    with torch.no_grad():
        assert torch.equal(*(model(ids, None, tiles, mode='tensor', **given) for model in (ours, read)))


def test_onevision_config_of_the_published_directories():
    """What llava-hf's older files leave out is the class's default."""
    tower = {'model_type': 'siglip_vision_model', 'hidden_size': 1152, 'image_size': 384, 'intermediate_size': 4304,
             'num_attention_heads': 16, 'num_hidden_layers': 26, 'patch_size': 14,
             'vision_use_head': False}  # fmt: skip
    text = {'model_type': 'qwen2', 'hidden_size': 896, 'intermediate_size': 4864, 'num_attention_heads': 14,
            'num_hidden_layers': 24, 'num_key_value_heads': 2, 'rope_theta': 1000000.0, 'vocab_size': 152000,
            'tie_word_embeddings': True}  # fmt: skip
    config = {'vision_config': tower, 'text_config': text, 'image_token_index': 151646, 'tie_word_embeddings': False}
    layout = LAYOUTS['LlavaOnevisionForConditionalGeneration'].from_config(config)
    model = layout.model_config
    assert model['merge'] == {'type': 'AnyResMerge', 'unpad': True, 'newline': True, 'shrink_to': 9}
    assert (model['vision']['select_layer'], model['vision']['num_hidden_layers']) == (-1, 26)
    assert (model['llm']['type'], model['llm']['tie_word_embeddings']) == ('Qwen2', True)
    assert model['pixel_mean'] == (0.5, 0.5, 0.5)
    tiler = IMAGE_PROCESSORS.build(layout._image_processor(None))
    assert tiler.to_dict() == IMAGE_PROCESSORS.build({'type': 'OneVisionTiler'}).to_dict()


@pytest.mark.parametrize('aspect', ['anyres', 'pad', 'anyres_max_0', 9])
def test_onevision_that_arranges_pictures_otherwise(aspect):
    config = {'vision_config': {}, 'text_config': {}, 'vision_aspect_ratio': aspect}
    with pytest.raises(CheckpointError, match=f"arranged as '?{aspect}"):
        LAYOUTS['LlavaOnevisionForConditionalGeneration']._merge(config)


@pytest.mark.parametrize('form', ['llava-hf', 'transformers', 'inner'])
@pytest.mark.parametrize('cls', [LlavaNextForConditionalGeneration, LlavaOnevisionForConditionalGeneration])
def test_names_of_all_versions_there_and_back(tmp_path, cls, form):
    """llava-hf's files, those that transformers writes today, and the names inside its model."""
    if cls is LlavaNextForConditionalGeneration:
        vision = CLIPVisionConfig(intermediate_size=32, **TOWER)
        model = save(cls, tmp_path, vision, LlamaConfig(**TEXT), image_grid_pinpoints=GRID)
    else:
        model = save_onevision(tmp_path)
    layout = layout_for('hf', read_layout(tmp_path).model_config)
    stored = TensorDirectory(tmp_path)
    written = convert(layout.to_theirs(ours := convert(layout.to_ours(stored), stored)), ours)
    forms = {'llava-hf': written, 'transformers': dict(stored), 'inner': dict(model.state_dict())}
    back = convert(layout.to_ours(forms[form]), forms[form])
    assert back.keys() == ours.keys()
    assert all(torch.equal(back[key], ours[key]) for key in ours)
    # What LMDeploy wants.
    names = (
        'vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight', 'multi_modal_projector.linear_2.bias',
        'language_model.model.layers.0.mlp.up_proj.weight', 'language_model.lm_head.weight', 'image_newline',
    )  # fmt: skip
    assert set(names) <= set(written)
    again = convert(layout.to_theirs(back), back)
    assert again.keys() == written.keys()
    assert all(torch.equal(again[key], written[key]) for key in written)
