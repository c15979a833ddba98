"""CLIP, SigLIP, DINOv2, timm's ViTs and their mixture, beside transformers, timm and the originals' numbers."""

from __future__ import annotations

import re

import pytest
import timm
import torch

from mmft.errors import ConfigError, ShapeError
from mmft.models import VLM
from mmft.models.lora import inject_lora, is_lora_key
from mmft.models.tuning import apply_tune
from mmft.registry import VISION_TOWERS
from tests.helpers import golden_json, golden_tensors

SIZES = {
    'hidden_size': 32,
    'num_hidden_layers': 3,
    'num_attention_heads': 4,
    'intermediate_size': 64,
    'image_size': 28,
    'patch_size': 7,
}
KINDS = ('CLIP', 'SigLIP', 'DINOv2')
TIMM = {'image_size': 28, 'patch_size': 7, 'embed_dim': 32, 'depth': 3, 'num_heads': 4}
FIELDS = (
    'hidden_size', 'num_hidden_layers', 'num_attention_heads', 'intermediate_size', 'image_size', 'patch_size',
    'hidden_act', 'layer_norm_eps', 'mlp_ratio', 'layerscale_value', 'use_swiglu_ffn', 'qkv_bias',
)  # fmt: skip

# transformers 5 renamed DINOv2's attention; the originals' checkpoints have the older names.
DINO_NAMES = (
    ('attention.attention.query', 'attention.q_proj'),
    ('attention.attention.key', 'attention.k_proj'),
    ('attention.attention.value', 'attention.v_proj'),
    ('attention.output.dense', 'attention.o_proj'),
)


def build(kind, **changes):
    return VISION_TOWERS.build({'type': kind, **SIZES, **changes}).eval()


def from_golden(config, **changes):
    return {**{key: config[key] for key in FIELDS if key in config}, **changes}


def fill(tower, weights, prefix):
    state = {}
    for name, tensor in weights.items():
        if name.startswith(prefix):
            name = re.sub(r'^vision_model\.', '', name.removeprefix(prefix))
            for old, new in DINO_NAMES:
                name = name.replace(old, new)
            if not name.startswith('head.'):  # SigLIP's pooling head
                state[name] = tensor
    tower.tower.load_state_dict(state)


@pytest.mark.parametrize('layer', [-1, -2])
def test_siglip_is_the_original(layer):
    weights, config = golden_tensors('tower_siglip', 'model'), golden_json('tower_siglip', 'config.json')['siglip']
    pixels, expected = (golden_tensors('tower_siglip', name) for name in ('inputs', 'outputs'))
    pixels = pixels['pixel_values']
    for options, name in (
        ({'select_feature': 'patch', 'drop_first': True}, 'patch'),  # TinyLLaVA drops a patch, SigLIP has no CLS
        ({'select_feature': 'cls_patch'}, 'cls_patch'),
        ({'select_feature': 'cls_patch', 'drop_first': True}, 'cls_patch'),
        ({}, 'cls_patch'),
    ):
        tower = VISION_TOWERS.build({'type': 'SigLIP', **from_golden(config, select_layer=layer), **options}).eval()
        fill(tower, weights, '_vision_tower.')
        out = tower(pixels)
        assert out.shape[1] == tower.num_patches(28) == 16 - (name == 'patch')
        torch.testing.assert_close(out, expected[f'{name}/layer{layer}'], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize('feature', ['patch', 'cls_patch'])
@pytest.mark.parametrize('layer', [-1, -2])
def test_mof_is_the_original(layer, feature):
    weights, config = golden_tensors('tower_mof', 'model'), golden_json('tower_mof', 'config.json')
    options = {'select_layer': layer, 'select_feature': feature}
    tower = VISION_TOWERS.build(
        {
            'type': 'MoFTower',
            'towers': [
                {'type': 'CLIP', **from_golden(config['clip'], **options)},
                {'type': 'DINOv2', **from_golden(config['dinov2'], **options)},
            ],
        }
    ).eval()
    for part, name in zip(tower.towers, ('clip', 'dinov2'), strict=True):
        fill(part, weights, f'_vision_tower.{name}.')
    expected = golden_tensors('tower_mof', 'outputs')
    out = tower(golden_tensors('tower_mof', 'inputs')['pixel_values'])
    assert out.shape == (2, tower.num_patches(28), tower.hidden_size) == (2, 16 + (feature == 'cls_patch'), 64)
    for share, name in zip(out.split(tower.hidden_sizes, dim=-1), ('clip', 'dinov2'), strict=True):
        torch.testing.assert_close(share, expected[f'{feature}/layer{layer}/{name}'], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize('side', [28, 21, 42])
@pytest.mark.parametrize('layer', range(-4, 4))
@pytest.mark.parametrize('kind', KINDS)
def test_every_select_layer_is_transformers_hidden_state(kind, layer, side):
    tower, pixels = build(kind, select_layer=layer), torch.randn(2, 3, side, side)
    options = {} if kind == 'DINOv2' else {'interpolate_pos_encoding': side != 28}
    expected = tower.tower(pixel_values=pixels, output_hidden_states=True, **options).hidden_states[layer]
    prefix = 0 if kind == 'SigLIP' else 1
    torch.testing.assert_close(tower(pixels), expected[:, prefix:], atol=1e-5, rtol=1e-5)
    assert tower.num_patches(side) == expected.shape[1] - prefix
    kept = build(kind, select_layer=layer, select_feature='cls_patch')
    kept.load_state_dict(tower.state_dict())
    torch.testing.assert_close(kept(pixels), expected, atol=1e-5, rtol=1e-5)
    assert kept.num_patches(side) == expected.shape[1]


@pytest.mark.parametrize('kind', KINDS)
def test_eager_and_sdpa_agree(kind):
    sdpa, eager = build(kind), build(kind, attn_implementation='eager')
    eager.load_state_dict(sdpa.state_dict())
    pixels = torch.randn(2, 3, 28, 28)
    torch.testing.assert_close(sdpa(pixels), eager(pixels), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
@pytest.mark.parametrize('kind', [*KINDS, 'TimmViT'])
def test_sixteen_bits(kind, dtype):
    tower = timm_vit() if kind == 'TimmViT' else build(kind)
    pixels = torch.randn(2, 3, 28, 28)
    full = tower(pixels)
    half = tower.to(dtype)(pixels)
    assert half.dtype == dtype
    torch.testing.assert_close(half.float(), full, atol=0.1, rtol=0.1)


def test_what_never_runs_is_idle():
    tower, calls = build('CLIP', select_layer=-2), []
    idle = {id(parameter) for parameter in tower.idle_layers.parameters()}
    for name, parameter in tower.named_parameters():
        assert (id(parameter) in idle) == name.startswith(('tower.encoder.layers.2.', 'tower.post_layernorm.')), name
    tower.layers[2].register_forward_hook(lambda *_: calls.append(1))
    tower(torch.randn(1, 3, 28, 28))
    assert calls == []


def test_unfrozen_from_a_layer_on():
    """The named layers train; embeddings, lower blocks and those above select_layer do not."""
    sizes = {'hidden_size': 16, 'num_hidden_layers': 1, 'num_attention_heads': 2, 'intermediate_size': 32}
    for tower, opened in (
        ({'type': 'CLIP', **SIZES}, r'tower\.encoder\.layers\.1\.'),
        ({'type': 'DINOv2', **SIZES}, r'tower\.encoder\.layer\.[12]\.'),
        ({'type': 'TimmViT', 'model_name': 'vit_tiny_patch16_224', **TIMM}, r'tower\.blocks\.[12]\.'),
        (
            {'type': 'MoFTower', 'towers': [{'type': 'CLIP', **SIZES}, {'type': 'DINOv2', **SIZES}]},
            r'towers\.0\.tower\.encoder\.layers\.1\.|towers\.1\.tower\.encoder\.layer\.[12]\.',
        ),
    ):
        model = VLM(tower, {'type': 'Linear'}, {'type': 'Llama', 'vocab_size': 32, **sizes})
        apply_tune(model, {'vision': {'type': 'full', 'from_layer': 1}, 'llm': 'frozen'})
        for name, parameter in model.vision.named_parameters():
            assert parameter.requires_grad == (re.match(opened, name) is not None), name


def test_lora_from_a_layer_on_reaches_both_towers_of_a_mixture():
    tower = VISION_TOWERS.build(
        {'type': 'MoFTower', 'towers': [{'type': 'CLIP', **SIZES}, {'type': 'DINOv2', **SIZES}]}
    )
    assert len(tower.layers) == 3
    inject_lora(tower, r=2, layers=[2])
    touched = {name.split('.lora_')[0] for name, _ in tower.named_parameters() if is_lora_key('.' + name)}
    assert {re.sub(r'(\.layers?\.\d+).*', r'\1', name) for name in touched} == {
        'towers.0.tower.encoder.layers.2',
        'towers.1.tower.encoder.layer.2',
    }


def test_towers_of_other_tile_sides_share_the_first_ones():
    small = {**SIZES, 'image_size': 42}
    tower = VISION_TOWERS.build(
        {'type': 'MoFTower', 'towers': [{'type': 'CLIP', **SIZES}, {'type': 'DINOv2', **small}]}
    ).eval()
    assert tower.image_size == 28
    pixels = torch.randn(1, 3, 28, 28)
    torch.testing.assert_close(tower(pixels)[..., 32:], tower.towers[1](pixels))


def timm_vit(name='vit_tiny_patch16_224', **changes):
    return VISION_TOWERS.build({'type': 'TimmViT', 'model_name': name, **TIMM, **changes}).eval()


def block_outputs(model, pixels):
    """What timm's own forward sends through its blocks."""
    seen = []
    handles = [block.register_forward_hook(lambda _, __, out: seen.append(out)) for block in model.blocks]
    model.forward_features(pixels)
    for handle in handles:
        handle.remove()
    return seen


@pytest.mark.parametrize('changes', [{}, {'reg_tokens': 4}, {'class_token': False, 'global_pool': 'avg'}])
@pytest.mark.parametrize('layer', [-3, -2, -1, 1, 2, 3])
def test_every_select_layer_is_timms_block(layer, changes):
    tower, pixels = timm_vit(select_layer=layer, **changes), torch.randn(2, 3, 28, 28)
    reference = timm.create_model('vit_tiny_patch16_224', img_size=28, num_classes=0, **{
        key: value for key, value in {**TIMM, **changes}.items() if key != 'image_size'
    }).eval()  # fmt: skip
    reference.load_state_dict(tower.tower.state_dict())
    expected = block_outputs(reference, pixels)[layer if layer < 0 else layer - 1]
    prefix = reference.num_prefix_tokens
    torch.testing.assert_close(tower(pixels), expected[:, prefix:], atol=1e-5, rtol=1e-5)
    kept = timm_vit(select_layer=layer, select_feature='cls_patch', **changes)
    kept.load_state_dict(tower.state_dict())
    torch.testing.assert_close(kept(pixels), expected, atol=1e-5, rtol=1e-5)
    assert kept.num_patches(28) == expected.shape[1]


def test_timm_heads_are_left_out_and_norms_kept():
    assert not {name for name, _ in timm_vit(global_pool='map', class_token=False).named_parameters() if 'pool' in name}
    assert 'tower.fc_norm.weight' in dict(timm_vit(global_pool='avg').named_parameters())
    assert 'tower.norm.weight' in dict(timm_vit().named_parameters())


@pytest.mark.parametrize(
    ('name', 'patches'),
    [
        ('deit_tiny_distilled_patch16_224', 14 * 14),
        ('vit_small_patch14_reg4_dinov2', 37 * 37),
        ('vit_base_patch16_clip_224', 14 * 14),
        ('vit_so400m_patch14_siglip_384', 27 * 27),
        ('vit_tiny_r_s16_p8_224', 7 * 7),  # a ResNet stem: 16 px, then patches of 2 x 2
    ],
)
def test_relatives_of_the_plain_vit(name, patches):
    tower = VISION_TOWERS.build({'type': 'TimmViT', 'model_name': name, 'embed_dim': 12, 'num_heads': 3, 'depth': 2})
    assert tower.num_patches(tower.image_size) == patches
    side = tower.image_size
    with torch.no_grad():
        assert tower(torch.zeros(1, 3, side, side)).shape == (1, patches, 12)


def test_timm_sides():
    tower = timm_vit()
    assert tower(torch.randn(1, 3, 42, 42)).shape == (1, tower.num_patches(42), 32) == (1, 36, 32)
    with pytest.raises(ShapeError, match=r'(?s)40 px.*28 px or a multiple of 7'):
        tower(torch.randn(1, 3, 40, 40))
    # 30 px in patches of 7 cuts 2 px off, as SigLIP's 384 px in patches of 14: its own side only.
    cut = timm_vit(image_size=30)
    assert cut(torch.randn(1, 3, 30, 30)).shape == (1, cut.num_patches(30), 32) == (1, 16, 32)
    with pytest.raises(ShapeError, match=r'28 px'):
        cut.num_patches(28)


@pytest.mark.parametrize(
    ('config', 'words'),
    [
        ({'type': 'CLIP', **SIZES, 'hiden_act': 'gelu'}, "no setting is named .'hiden_act'"),
        ({'type': 'CLIP', **SIZES, 'select_layer': -5}, 'select_layer -5 with 3 blocks'),
        ({'type': 'SigLIP', **SIZES, 'select_feature': 'cls'}, "select_feature 'cls'"),
        ({'type': 'SigLIP', **SIZES, 'num_attention_heads': 5}, 'not divisible by num_attention_heads 5'),
        ({'type': 'CLIP', **SIZES, 'attention_dropout': 'much'}, 'transformers refuses'),
        ({'type': 'DINOv2', **SIZES, 'intermediate_size': 48}, 'a multiple of hidden_size'),
        ({'type': 'MoFTower', 'towers': [{'type': 'CLIP', **SIZES}]}, '1 tower'),
        (
            {
                'type': 'MoFTower',
                'towers': [{'type': 'CLIP', **SIZES}, {'type': 'CLIP', **SIZES, 'select_feature': 'cls_patch'}],
            },
            r'\[16, 17\] patches in a tile of 28 px',
        ),
        ({'type': 'CLIP', **SIZES, 'select_layer': '-2'}, "select_layer '-2'.*expected: a whole number"),
        ({'type': 'CLIP', **SIZES, 'num_attention_heads': 0, 'image_size': 0}, 'num_attention_heads 0.*image_size 0'),
        ({'type': 'SigLIP', **SIZES, 'image_size': 5}, 'image_size 5 is less than one patch of 7'),
        ({'type': 'CLIP', **SIZES, 'hidden_act': 'gleu'}, "transformers refuses this config: 'gleu'"),
        ({'type': 'DINOv2', **SIZES, 'attn_implementation': 'sdap'}, 'refuses this config.*sdap'),
        ({'type': 'clip', **SIZES}, "did you mean 'CLIP'"),
        ({'type': 'TimmViT', 'model_name': 'vit_tiny_patch16_223'}, "did you mean .*'vit_tiny_patch16_224'"),
        ({'type': 'TimmViT', 'model_name': 'resnet18'}, 'resnet18'),
        ({'type': 'TimmViT', 'model_name': 'vit_tiny_patch16_224', **TIMM, 'select_layer': 0}, 'select_layer 0'),
        ({'type': 'TimmViT', 'model_name': 'vit_tiny_patch16_224', **TIMM, 'dept': 3}, "'dept'"),
        ({'type': 'TimmViT', 'model_name': 'vit_tiny_patch16_224', 'pretrained': True}, 'pretrained'),
    ],
)
def test_a_config_that_cannot_work(config, words):
    with pytest.raises(ConfigError, match=f'(?s){words}'):
        VISION_TOWERS.build(config)


@pytest.mark.parametrize('kind', [*KINDS, 'TimmViT'])
def test_pixels_that_are_no_tiles(kind):
    tower = timm_vit() if kind == 'TimmViT' else build(kind)
    with pytest.raises(ShapeError, match=r'\(3, 28, 28\)'):
        tower(torch.randn(3, 28, 28))
