"""What is registered keeps its contract: the tests walk the registries, so a new part is covered unasked.

The matrix is every tower x projector x language model. Each cell trains, is saved, and a second one, built on the meta
device, answers the same from what was saved, as ``mmft.load`` does it. What cannot work says why when it is built.
"""

from __future__ import annotations

import copy
import inspect
from functools import cache

import pytest
import torch
from safetensors.torch import load, save

from mmft.errors import ConfigError
from mmft.models import VLM
from mmft.models.base import VisionTower
from mmft.registry import LANGUAGE_MODELS, OPTIMIZERS, PROJECTORS, VISION_TOWERS, Registry
from tests.models.parts import (
    CONNECTORS,
    DL,
    DV,
    LLMS,
    OWN_TOWER,
    PROJECTOR,
    SAME_WIDTH,
    SIDE,
    SLOT,
    SPECIAL,
    SQUARE,
    TOWERS,
    VOCABULARY,
    llm_config,
    projector_config,
    small_llm,
    tower_config,
)


def build(tower='InternViT', projector='PixelShuffleMLP', llm='Llama', width=DL):
    """``width``: Dl."""
    return VLM(tower_config(tower), projector_config(projector), small_llm(llm, width), image_token_id=SLOT)


def trainable(model):
    """Everything but what its parts declare idle."""
    model.vision.idle_layers.requires_grad_(False)
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_the_registries_are_not_empty():
    assert set(TOWERS) >= {'CLIP', 'DINOv2', 'InternViT', 'MoFTower', 'SigLIP', 'TimmBackbone', 'TimmViT'}
    assert 'PixelShuffleMLP' in CONNECTORS
    assert {'Gemma', 'InternLM2', 'Llama', 'MiniCPM', 'Mistral', 'Phi', 'Phi3', 'Qwen2', 'StableLM'} <= set(LLMS)


def test_the_tables_name_parts_that_exist():
    assert set(OWN_TOWER) <= set(TOWERS)
    assert set(SPECIAL) <= set(LLMS)
    assert {*PROJECTOR, *SAME_WIDTH, *SQUARE} <= set(CONNECTORS)


def test_a_misspelt_argument():
    with pytest.raises(ConfigError, match=r"(?s)InternViT: .*'hiden_size'.*did you mean 'hidden_size'"):
        VISION_TOWERS.build({'type': 'InternViT', 'hiden_size': DV})
    with pytest.raises(ConfigError, match=r"(?s)no optimizer is named 'AdamWW'.*did you mean 'AdamW'"):
        OPTIMIZERS.build({'type': 'AdamWW', 'lr': 1.0})


class Half(VisionTower):
    """A tower without blocks and without the size of its tiles."""

    def __init__(self):
        super().__init__()
        self.hidden_size = DV

    def forward(self, pixel_values):
        return pixel_values.flatten(2).mT

    def num_patches(self, image_size):
        return image_size**2


class Whole(Half):
    layers = torch.nn.ModuleList()


def test_a_part_of_ones_own_that_keeps_half_of_its_contract():
    registry = Registry('vision tower', scope='mmft')
    for kind in (Half, Whole):
        registry.register_module(module=kind)
    with pytest.raises(ConfigError) as error:
        registry.build({'type': 'Half'})
    assert 'vision tower Half: Half has no layers' in str(error.value)
    assert 'all that VisionTower asks of it (mmft/models/base.py)' in str(error.value)
    assert 'docs/configs.md' in str(error.value)
    with pytest.raises(ConfigError, match=r'Whole has no image_size'):
        VLM(registry.build({'type': 'Whole'}), projector_config('MLP'), small_llm('Llama', DL))


@pytest.mark.parametrize('name', TOWERS)
def test_vision_tower(name):
    tower = VISION_TOWERS.build(tower_config(name)).eval()
    assert tower.image_size == SIDE
    assert len(tower.layers) == 2
    for side in (SIDE, SIDE // 2):
        out = tower(torch.rand(3, 3, side, side))
        assert out.shape == (3, tower.num_patches(side), tower.hidden_size)
    # Tiles do not see each other.
    pixels = torch.rand(4, 3, SIDE, SIDE)
    torch.testing.assert_close(tower(pixels)[1:2], tower(pixels[1:2]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize('name', TOWERS)
def test_exactly_the_idle_layers_of_a_tower_get_no_gradient(name):
    tower = VISION_TOWERS.build(tower_config(name)).train()
    tower(torch.rand(2, 3, SIDE, SIDE)).sum().backward()
    idle = {id(parameter) for parameter in tower.idle_layers.parameters()}
    assert {id(parameter) for parameter in tower.parameters() if parameter.grad is None} == idle
    assert {id(parameter) for parameter in tower.layers[0].parameters()}.isdisjoint(idle)


@pytest.mark.parametrize('name', TOWERS)
def test_a_tower_recomputes_its_blocks(name):
    tower = VISION_TOWERS.build(tower_config(name)).train()
    pixels = torch.rand(2, 3, SIDE, SIDE)
    results = []
    for checkpointing in (False, True):
        tower.gradient_checkpointing = checkpointing
        tower.zero_grad()
        calls = []
        block = next(module for module in tower.layers[0].modules() if isinstance(module, torch.nn.LayerNorm))
        handle = block.register_forward_hook(lambda *_, seen=calls: seen.append(1))
        out = tower(pixels)
        out.square().sum().backward()
        handle.remove()
        assert len(calls) == 1 + checkpointing
        results.append([out, *(p.grad for p in tower.parameters() if p.grad is not None)])
    for plain, recomputed in zip(*results, strict=True):
        torch.testing.assert_close(plain, recomputed)


@pytest.mark.parametrize('name', CONNECTORS)
def test_projector(name):
    widths = {'in_dim': DV, 'out_dim': DV if name in SAME_WIDTH else DL}
    projector = PROJECTORS.build({**projector_config(name), **widths}).eval()
    patches = torch.rand(3, 16, DV, requires_grad=True)
    out = projector(patches)
    assert out.shape == (3, projector.num_tokens(16), widths['out_dim'])
    torch.testing.assert_close(out[1:2], projector(patches[1:2]))
    out.sum().backward()
    assert patches.grad is not None
    assert all(p.grad is not None for p in projector.parameters())


@pytest.mark.parametrize('name', LLMS)
def test_language_model(name):
    llm = LANGUAGE_MODELS.build(llm_config(name)).eval()
    assert (llm.hidden_size, llm.vocab_size) == (DL, VOCABULARY)
    assert len(llm.layers) == 2
    ids = torch.randint(3, VOCABULARY, (2, 7))
    embeds = llm.embed(ids)
    hidden = llm.hidden(embeds, None, None)
    assert embeds.shape == hidden.shape == (2, 7, DL)
    # The skin adds nothing: transformers' own forward gives the same logits.
    torch.testing.assert_close(llm.head(hidden), llm.lm(input_ids=ids).logits)
    weight, bias = llm.linear_head()
    torch.testing.assert_close(torch.nn.functional.linear(hidden, weight, bias), llm.head(hidden))
    new = llm.generate(
        embeds, torch.ones_like(ids), max_new_tokens=3, do_sample=False, eos_token_id=None, pad_token_id=0
    )
    assert new.shape == (2, 3)
    assert new[:, 0].tolist() == llm.head(hidden)[:, -1].argmax(-1).tolist()


PARTS = [(VISION_TOWERS, tower_config(name)) for name in TOWERS]
PARTS += [(LANGUAGE_MODELS, llm_config(name)) for name in LLMS]
PARTS += [
    (PROJECTORS, {**projector_config(name), 'in_dim': DV, 'out_dim': DV if name in SAME_WIDTH else DL})
    for name in CONNECTORS
]


@pytest.mark.parametrize(('registry', 'config'), PARTS, ids=[config['type'] for _, config in PARTS])
def test_a_meta_build_has_the_same_parameters_and_buffers(registry, config):
    with torch.device('meta'):
        meta = registry.build(copy.deepcopy(config))
    real = registry.build(copy.deepcopy(config))
    assert all(parameter.is_meta for parameter in meta.parameters())
    assert {k: v.shape for k, v in meta.named_parameters()} == {k: v.shape for k, v in real.named_parameters()}
    getattr(meta, 'reset_buffers', bool)()  # a projector has none to reset
    for (name, a), (_, b) in zip(meta.named_buffers(), real.named_buffers(), strict=True):
        torch.testing.assert_close(a, b, msg=name)


@pytest.mark.parametrize(('registry', 'config'), PARTS, ids=[config['type'] for _, config in PARTS])
def test_resetting_buffers_leaves_the_weights_that_are_there(registry, config):
    part = registry.build(copy.deepcopy(config))
    before = {name: tensor.clone() for name, tensor in part.state_dict().items()}
    for module in part.modules():
        for name, buffer in module._buffers.items():
            module._buffers[name] = buffer.to('meta') if buffer is not None else None
    getattr(part, 'reset_buffers', bool)()
    for name, tensor in part.state_dict().items():
        assert torch.equal(tensor, before[name]), name


MATRIX = [(t, p, m) for t in TOWERS for p in CONNECTORS for m in LLMS]


@cache
def made(registry, name, device, *widths):
    """A built part, which the cells share: ``widths`` are (Dl) of a language model, (Dv, Dl) of a projector."""
    if registry is VISION_TOWERS:
        config = tower_config(name)
    elif registry is LANGUAGE_MODELS:
        config = small_llm(name, *widths)
    else:
        config = {**projector_config(name), 'in_dim': widths[0], 'out_dim': widths[1]}
    with torch.device(device):
        return registry.build(config)


def cell(tower, projector, llm, device):
    vision = made(VISION_TOWERS, tower, device)
    width = vision.hidden_size if projector in SAME_WIDTH else DL
    connector = made(PROJECTORS, projector, device, vision.hidden_size, width)
    return VLM(vision, connector, made(LANGUAGE_MODELS, llm, device, width), image_token_id=SLOT)


@pytest.mark.parametrize(('tower', 'projector', 'llm'), MATRIX)
def test_every_mix_trains_saves_and_answers_the_same(tower, projector, llm):
    model = cell(tower, projector, llm, 'cpu').train()
    tokens = model.tokens_per_tile
    ids = torch.tensor([[1, *[SLOT] * 2 * tokens, 5, 6, 7, 8, 2]])
    labels = ids.clone()
    labels[:, : 2 * tokens + 3] = -100
    batch = {'input_ids': ids, 'pixel_values': torch.randint(256, (2, 3, SIDE, SIDE), dtype=torch.uint8)}
    trained = trainable(model)
    model.zero_grad()
    first = model(**batch, labels=labels)
    first['loss'].backward()
    assert [name for name, parameter in trained.items() if parameter.grad is None] == []
    torch.nn.utils.clip_grad_norm_(trained.values(), 0.01)  # a step so short that it must go down
    with torch.no_grad():
        for parameter in trained.values():
            parameter -= parameter.grad
        assert model(**batch, labels=labels)['loss'] < first['loss']

    saved = save({name: parameter.data for name, parameter in model.named_parameters()})
    again = cell(tower, projector, llm, 'meta')
    fit = again.load_state_dict(load(saved), strict=False, assign=True)
    tied = set(dict(again.named_parameters(remove_duplicate=False))) - set(dict(model.named_parameters()))
    assert (set(fit.missing_keys), fit.unexpected_keys) == (tied, [])
    again.llm.lm.tie_weights()
    again.vision.reset_buffers()
    again.llm.reset_buffers()
    with torch.no_grad():
        answers = [each.eval()(**batch, mode='tensor') for each in (model, again)]
    assert torch.equal(*answers)


def test_a_meta_cell_has_no_meta_left():
    with torch.device('meta'):
        model = build('CLIP')
    model.vision.reset_buffers()
    model.llm.reset_buffers()
    assert not any(buffer.is_meta for buffer in model.buffers())


@pytest.mark.parametrize('projector', sorted(SAME_WIDTH))
def test_a_projector_that_maps_no_widths_says_so(projector):
    with pytest.raises(ConfigError, match=SAME_WIDTH[projector]):
        build(projector=projector, width=DL)


@pytest.mark.parametrize('projector', CONNECTORS)
def test_tokens_that_are_no_square(projector):
    """17 tokens: 16 patches and the class token."""
    parts = tower_config('CLIP', select_feature='cls_patch'), projector_config(projector)
    llm = llm_config('Llama', hidden_size=DV if projector in SAME_WIDTH else DL)
    if projector in SQUARE:
        with pytest.raises(ConfigError, match=SQUARE[projector]):
            VLM(*parts, llm)
    else:
        assert VLM(*parts, llm).tokens_per_tile == PROJECTORS.get(projector).num_tokens(VLM(*parts, llm).projector, 17)


def test_the_walk_covers_what_can_be_imported():
    """A part that is exported but not registered would escape the walk."""
    import mmft.models.language as language
    import mmft.models.projectors as projectors
    import mmft.models.vision as vision

    for module, registry in ((language, LANGUAGE_MODELS), (projectors, PROJECTORS), (vision, VISION_TOWERS)):
        classes = {name for name in module.__all__ if inspect.isclass(getattr(module, name))}
        assert classes - {'CausalLM'} == set(registry.names())
