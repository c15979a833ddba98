"""Backbones of timm with a feature map, beside timm's own ``forward_features``; frozen, trained, exported, read."""

from __future__ import annotations

import json
import re

import pytest
import timm
import torch
from mmengine.config import Config
from safetensors.torch import save_file

import mmft
from mmft.checkpoint import build_pretrained
from mmft.checkpoint.load import load
from mmft.engine import Runner
from mmft.errors import CheckpointError, ConfigError, ShapeError
from mmft.export import convert
from mmft.models import VLM
from mmft.models.buffers import moving_buffers, persistent_buffers, tensors_of
from mmft.models.tuning import apply_tune
from mmft.registry import VISION_TOWERS
from tests.engine.tiny import write_tiny

SWIN = {'model_name': 'swin_tiny_patch4_window7_224', 'image_size': 64, 'embed_dim': 16, 'depths': [1, 1, 1],
        'num_heads': [2, 2, 4], 'window_size': 2}  # fmt: skip
SMALL = {
    'convnext': {'model_name': 'test_convnext', 'image_size': 64},
    'efficientnet': {'model_name': 'test_efficientnet', 'image_size': 64},
    'resnet': {'model_name': 'test_resnet', 'image_size': 64},
    'byobnet': {'model_name': 'test_byobnet', 'image_size': 64},
    'mambaout': {'model_name': 'test_mambaout', 'image_size': 64},  # (B,H,W,C), as Swin
    'swin': SWIN,
}
# Linear layers and batch norms together.
TINY_VIT = {'model_name': 'tiny_vit_5m_224', 'image_size': 64, 'embed_dims': [16, 16, 32, 32], 'depths': [1, 1, 1, 1],
            'num_heads': [2, 2, 2, 2]}  # fmt: skip
LLAMA = {'type': 'Llama', 'vocab_size': 32, 'hidden_size': 16, 'num_hidden_layers': 1, 'num_attention_heads': 2,
         'intermediate_size': 32}  # fmt: skip


def build(name, **changes):
    return VISION_TOWERS.build({'type': 'TimmBackbone', **SMALL[name], **changes})


def timms_own(config):
    options = {key: value for key, value in config.items() if key not in ('type', 'model_name', 'image_size')}
    if 'swin' in config['model_name']:
        options['img_size'] = config['image_size']
    return timm.create_model(config['model_name'], num_classes=0, **options).eval()


def randomize(module):
    """Norms and their statistics too, which begin as ones and zeros."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in module.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=generator) * 0.2 + 0.1)
    return module


@pytest.mark.parametrize('name', SMALL)
def test_the_patches_are_timms_own_map(name):
    tower = randomize(build(name)).eval()
    reference = timms_own(SMALL[name])
    assert reference.state_dict().keys() == tower.tower.state_dict().keys()
    reference.load_state_dict(tower.tower.state_dict())
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected, got = reference.forward_features(pixels), tower(pixels)
    channels_last = name in ('mambaout', 'swin')
    if not channels_last:
        expected = expected.permute(0, 2, 3, 1)
    assert got.shape == (2, tower.num_patches(64), tower.hidden_size)
    assert torch.equal(got, expected.reshape(2, -1, expected.shape[-1]))
    assert reference.num_features == tower.hidden_size
    settings = reference.default_cfg
    assert (tower.pixel_mean, tower.pixel_std) == (tuple(settings['mean']), tuple(settings['std']))


@pytest.mark.parametrize('name', ['convnext', 'efficientnet', 'resnet', 'swin'])
def test_exactly_idle_layers_get_no_gradient(name):
    tower = build(name).train()
    tower(torch.rand(2, 3, 64, 64)).square().sum().backward()
    idle = {id(parameter) for parameter in tower.idle_layers.parameters()}
    assert {id(parameter) for parameter in tower.parameters() if parameter.grad is None} == idle
    assert len(tower.layers) == {'convnext': 4, 'efficientnet': 5, 'resnet': 4, 'swin': 3}[name]


def test_a_model_takes_the_pixels_of_its_tower():
    plain = VLM({'type': 'TimmBackbone', **SMALL['convnext']}, {'type': 'Linear'}, LLAMA)
    assert plain.pixel_mean == timm.get_pretrained_cfg('test_convnext').mean == (0.5, 0.5, 0.5)
    named = VLM({'type': 'TimmBackbone', 'model_name': 'convnext_atto'}, {'type': 'Linear'}, LLAMA)
    assert named.pixel_mean == timm.get_pretrained_cfg('convnext_atto').mean == (0.485, 0.456, 0.406)
    own = VLM({'type': 'TimmBackbone', **SMALL['convnext']}, {'type': 'Linear'}, LLAMA, pixel_mean=[0.1, 0.2, 0.3])
    assert own.pixel_mean == (0.1, 0.2, 0.3)
    tagged = VISION_TOWERS.build(
        {'type': 'TimmBackbone', 'model_name': 'convnext_base.clip_laion2b', 'depths': [1] * 4}
    )
    assert tagged.pixel_mean == pytest.approx((0.48145466, 0.4578275, 0.40821073))


@pytest.mark.parametrize('vision', ['frozen', 'full', {'type': 'full', 'from_layer': 2}, 'lora'])
def test_batch_norms_that_are_frozen_stand_still(vision):
    """Under the training of other parts, of upper stages, and of adapters beside them."""
    config = TINY_VIT if vision == 'lora' else SMALL['efficientnet']
    model = VLM({'type': 'TimmBackbone', **config}, {'type': 'Linear'}, LLAMA, image_token_id=31)
    apply_tune(model, {'vision': vision, 'llm': 'lora'})
    before = {name: buffer.clone() for name, buffer in persistent_buffers(model.vision).items()}
    model.train()
    model.train(False)
    model.train()
    ids = torch.tensor([[1, *[31] * model.tokens_per_tile, 5, 6]])
    pixels = torch.randint(256, (1, 3, 64, 64), dtype=torch.uint8)
    model(ids, pixel_values=pixels, labels=ids.masked_fill(ids == 31, -100))['loss'].backward()
    moved = {name for name, b in persistent_buffers(model.vision).items() if not torch.equal(b, before[name])}
    assert moved == moving_buffers(model.vision).keys()
    opened = {'frozen': r'(?!)', 'lora': r'(?!)', 'full': r'.*'}.get(str(vision), r'tower\.(blocks\.[2-4]|bn2)\.')
    assert before
    assert moved == {name for name in before if re.match(opened, name)}


def test_lora_on_convolutions_alone():
    model = VLM({'type': 'TimmBackbone', **SMALL['resnet']}, {'type': 'Linear'}, LLAMA)
    with pytest.raises(ConfigError, match=r'TimmBackbone has no linear layer(?s:.*)frozen'):
        apply_tune(model, {'vision': 'lora'})


def test_lora_on_the_stages_of_a_swin():
    tower = {'type': 'TimmBackbone', **SWIN, 'depths': [1, 2, 1]}
    model = VLM(tower, {'type': 'Linear'}, LLAMA)
    apply_tune(model, {'vision': {'type': 'lora', 'r': 2, 'from_layer': 1}, 'llm': 'frozen'})
    trained = {name for name, parameter in model.vision.named_parameters() if parameter.requires_grad}
    stages = {re.match(r'tower\.layers\.(\d)', name)[1] for name in trained}
    assert stages == {'1', '2'}
    assert any('layers.1.blocks.0.' in name for name in trained)


def test_tiles_of_other_sides():
    tower = build('resnet').eval()
    assert tower(torch.zeros(1, 3, 96, 96)).shape == (1, tower.num_patches(96), 96) == (1, 9, 96)
    with pytest.raises(ShapeError, match=r'a tile of 60 px for swin_tiny'):
        build('swin').num_patches(60)


@pytest.mark.parametrize(
    ('config', 'words'),
    [
        ({'model_name': 'convnext_tinny'}, "did you mean .*'convnext_tiny'"),
        ({'model_name': 'vit_tiny_patch16_224'}, "no feature map.*type='TimmViT'"),
        ({'model_name': 'mixer_s16_224'}, 'no feature map'),
        ({'model_name': 'hf-hub:someone/model'}, 'no model named'),
        ({'model_name': 'test_resnet', 'image_size': 0}, 'image_size 0'),
        ({'model_name': 'test_resnet', 'pretrained': True}, 'nothing is downloaded'),
        ({'model_name': 'test_resnet', 'checkpoint_path': 'x.bin'}, "no setting is named .'checkpoint_path'"),
        ({'model_name': 'test_resnet', 'features_only': True}, "no setting is named .'features_only'"),
        ({'model_name': 'test_convnext', 'num_classes': 3}, "no setting is named .'num_classes'"),
        ({'model_name': 'test_convnext', 'depths': [1]}, 'timm refuses test_convnext'),
        ({'model_name': 'dla34', 'gradient_checkpointing': True}, 'cannot recompute dla34'),
    ],
)
def test_a_config_that_cannot_work(config, words):
    with pytest.raises((ConfigError, ShapeError), match=f'(?s){words}'):
        VISION_TOWERS.build({'type': 'TimmBackbone', **config})


def test_timm_vit_names_the_other_tower():
    with pytest.raises(ConfigError, match=r"(?s)resnet18.*type='TimmBackbone'"):
        VISION_TOWERS.build({'type': 'TimmViT', 'model_name': 'resnet18'})


@pytest.mark.parametrize('name', ['convnext', 'efficientnet', 'resnet', 'swin'])
def test_trained_exported_and_read(name, tmp_path):
    """Persistent buffers equal, and the same answers to the last bit."""
    cfg = Config.fromfile(write_tiny(tmp_path / 'tiny'))
    cfg.model.vision = {'type': 'TimmBackbone', **SMALL[name]}
    cfg.model.projector = {'type': 'MLP'}
    cfg.encoder['image_processor'] = {'type': 'Resize', 'tile_size': 64}
    cfg.tune = dict.fromkeys(('vision', 'projector', 'llm'), 'full')
    cfg.optim_wrapper.update(dtype=None, accumulative_counts=1, paramwise_cfg=None)
    cfg.train_cfg, cfg.val_cfg, cfg.val_dataloader = {'max_iters': 2}, None, None
    cfg.default_hooks.update(checkpoint={'interval': 2, 'by_epoch': False})
    cfg.work_dir = str(tmp_path / 'run')
    runner = Runner.from_cfg(cfg)
    runner.train()
    model = runner.model.eval()
    convert(cfg, tmp_path / 'run' / 'iter_2.pth', tmp_path / 'out', 'native', check='full')
    read, _ = mmft.load(tmp_path / 'out')
    assert read.pixel_mean == model.pixel_mean
    pixels = torch.randint(256, (2, 3, 64, 64), dtype=torch.uint8)
    with torch.no_grad():
        assert torch.equal(read.image_features(pixels), model.image_features(pixels))
    ours, theirs = persistent_buffers(model), persistent_buffers(read)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert all(torch.equal(value, tensors_of(read)[key]) for key, value in tensors_of(model).items())


def model_config(vision):
    return {'type': 'VLM', 'vision': vision, 'projector': {'type': 'MLP'}, 'llm': LLAMA}


def write_timm(folder, name, **cfg):
    """A directory as timm's ``save_for_hf`` writes it, with the classifier."""
    model = randomize(timm.create_model(name))
    save_file(model.state_dict(), folder / 'model.safetensors')
    pretrained_cfg = {**timm.get_pretrained_cfg(name).to_dict(), **cfg}
    numbers = {'architecture': name, 'num_classes': model.num_classes, 'pretrained_cfg': pretrained_cfg}
    (folder / 'config.json').write_text(json.dumps(numbers))
    return model.state_dict()


@pytest.mark.parametrize('name', ['test_convnext', 'test_efficientnet', 'test_resnet'])
def test_a_directory_of_timm(name, tmp_path):
    want = write_timm(tmp_path, name)
    vision = {'type': 'TimmBackbone', 'model_name': name}
    model, _ = build_pretrained({'vision': str(tmp_path)}, model_config(vision))
    own = model.vision.tower.state_dict()
    assert want.keys() > own.keys()
    assert all(torch.equal(want[key], value) for key, value in own.items())


def test_a_directory_without_the_counts_of_batch_norms(tmp_path):
    want = write_timm(tmp_path, 'test_resnet')
    save_file({k: v for k, v in want.items() if 'num_batches' not in k}, tmp_path / 'model.safetensors')
    model, _ = load(
        {'vision': str(tmp_path)}, model=model_config({'type': 'TimmBackbone', 'model_name': 'test_resnet'})
    )
    counts = [b for name, b in model.vision.named_buffers() if name.endswith('num_batches_tracked')]
    assert {(count.dtype, count.item()) for count in counts} == {(torch.int64, 0)}


def test_a_directory_of_other_pixels_or_of_another_model(tmp_path):
    write_timm(tmp_path, 'test_resnet', mean=[0.1, 0.2, 0.3], tag='x')
    vision = {'type': 'TimmBackbone', 'model_name': 'test_resnet'}
    with pytest.raises(ConfigError, match=r'(?s)pixel_mean.*trained with \[0.1, 0.2, 0.3\].*test_resnet\.x'):
        build_pretrained({'vision': str(tmp_path)}, model_config(vision))
    build_pretrained({'vision': str(tmp_path)}, {**model_config(vision), 'pixel_mean': (0.1, 0.2, 0.3)})
    with pytest.raises((ConfigError, CheckpointError), match=r'model_name|does not fit'):
        build_pretrained(
            {'vision': str(tmp_path)}, model_config({'type': 'TimmBackbone', 'model_name': 'test_efficientnet'})
        )
