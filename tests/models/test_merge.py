"""``AnyResMerge`` and the composite around it: order, gradients, meta builds, and passes without a picture."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from transformers.models.llava_next.modeling_llava_next import LlavaNextModel
from transformers.models.llava_onevision.modeling_llava_onevision import LlavaOnevisionModel

from mmft.data.pictures.anyres import AnyResTiler, OneVisionTiler
from mmft.errors import ConfigError, ShapeError
from mmft.geometry import MERGE_MODES, arranged_tokens
from mmft.models import VLM
from mmft.models.merge import AnyResMerge
from mmft.models.tuning import apply_tune, trainable_summary

SIDE, PATCH, SLOT = 28, 7, 60
TOWER = {'type': 'InternViT', 'hidden_size': 16, 'num_hidden_layers': 2, 'num_attention_heads': 2,
         'intermediate_size': 24, 'image_size': SIDE, 'patch_size': PATCH}  # fmt: skip
LLM = {'type': 'Llama', 'vocab_size': 64, 'hidden_size': 24, 'intermediate_size': 32, 'num_hidden_layers': 2,
       'num_attention_heads': 2, 'num_key_value_heads': 1, 'pad_token_id': 0}  # fmt: skip
SIZES, GRIDS = [(50, 30), (20, 20)], [(2, 1), (0, 0)]


def build(**changes) -> VLM:
    parts = {'projector': {'type': 'MLP'}, 'merge': {'type': 'AnyResMerge'}, 'image_token_id': SLOT, **changes}
    return VLM(vision=dict(TOWER), llm=dict(LLM), **parts)


def batch(pictured: bool = True) -> dict:
    tokens = sum(arranged_tokens(size, grid, 16) for size, grid in zip(SIZES, GRIDS, strict=True)) if pictured else 0
    ids = torch.tensor([[1, *[SLOT] * tokens, 5, 6, 7, 8, 2]])
    labels = ids.clone()
    labels[:, : tokens + 3] = -100
    made = {'input_ids': ids, 'labels': labels}
    if pictured:
        made['pixel_values'] = torch.randint(256, (4, 3, SIDE, SIDE), dtype=torch.uint8)
        made['image_sizes'], made['image_grids'] = torch.tensor(SIZES), torch.tensor(GRIDS)
    return made


@pytest.mark.parametrize(('unpad', 'newline'), [(True, True), (False, False), (True, False), (False, True)])
def test_order(unpad, newline):
    """A 2 x 3 grid of tiles of 4 x 4 tokens, each token its place on the plane."""
    columns, rows, side = 2, 3, 4
    plane = torch.arange(rows * side * columns * side, dtype=torch.float).view(rows * side, columns * side)
    tiles = [plane[y * side : (y + 1) * side, x * side : (x + 1) * side].flatten() for y in range(rows)
             for x in range(columns)]  # fmt: skip
    features = torch.stack([torch.full((16,), -1.0), *tiles])[..., None]
    merge = AnyResMerge(1, unpad, newline)
    if newline:
        torch.nn.init.constant_(merge.image_newline, -2.0)
    got = merge(features, [(300, 900)], [(columns, rows)])[:, 0]
    kept = plane[:, 2:6] if unpad else plane
    if newline:
        kept = torch.nn.functional.pad(kept, (0, 1), value=-2.0)
    assert torch.equal(got, torch.cat([torch.full((16,), -1.0), kept.flatten()]))
    assert len(got) == arranged_tokens((300, 900), (columns, rows), 16, unpad, newline)


@pytest.mark.parametrize(('unpad', 'newline'), [(True, False), (False, True)])
def test_a_pair_that_no_image_processor_counts(unpad, newline):
    with pytest.raises(ConfigError, match=rf'(?s)unpad={unpad} with newline={newline}.*both True'):
        build(merge={'type': 'AnyResMerge', 'unpad': unpad, 'newline': newline})


@pytest.mark.parametrize('mode', MERGE_MODES)
def test_a_merge_knows_its_mode(mode):
    assert build(merge={'type': 'AnyResMerge', **MERGE_MODES[mode]}).merge.mode == mode


def test_grids_without_sizes():
    with pytest.raises(ShapeError, match='image_grids, but no image_sizes'):
        build()(**{**batch(), 'image_sizes': None})


@pytest.mark.parametrize(
    ('ids', 'words'), [([1, 2], r'shape \(2,\)(?s:.*)\(B,L\)'), ([[1, 64]], 'Llama: input_ids from 1 to 64')]
)
def test_ids_that_are_no_batch_or_in_no_table(ids, words):
    with pytest.raises(ShapeError, match=words):
        build()(torch.tensor(ids), mode='tensor')


def test_pictures_follow_one_another():
    merge = AnyResMerge(8)
    features = torch.rand(3 + 1 + 5, 16, 8)
    sizes, grids = [(50, 30), (20, 20), (90, 100)], [(2, 1), (0, 0), (2, 2)]
    together = merge(features, sizes, grids)
    apart = [
        merge(part, [size], [grid]) for part, size, grid in zip(features.split([3, 1, 5]), sizes, grids, strict=True)
    ]
    assert torch.equal(together, torch.cat(apart))
    assert torch.equal(apart[1], torch.cat([features[3], merge.image_newline[None]]))


def test_grids_that_do_not_fit():
    with pytest.raises(ShapeError, match='6 tiles for 1 grid of 5 tiles and 1 picture size'):
        AnyResMerge(8)(torch.rand(6, 16, 8), [(20, 20)], [(2, 2)])
    with pytest.raises(ShapeError, match='15 tokens per tile do not form a square'):
        AnyResMerge(8)(torch.rand(5, 15, 8), [(20, 20)], [(2, 2)])


def test_a_model_whose_tokens_form_no_square():
    with pytest.raises(ConfigError, match=r'(?s)InternViT with QFormer: 3 tokens per tile do not form a square.*flat'):
        build(projector={'type': 'QFormer', 'num_queries': 3, 'hidden_size': 16, 'num_hidden_layers': 2,
                         'num_attention_heads': 2, 'intermediate_size': 24})  # fmt: skip


def test_newline_trains_even_where_no_row_is_left():
    merge = AnyResMerge(8)
    out = merge(torch.rand(3, 1, 8), [(1000, 10)], [(2, 1)])  # a single cell high: 2 x 1 cells, of which 0 rows stay
    left = len(out)
    out.sum().backward()
    assert merge.image_newline.grad is not None
    assert left == arranged_tokens((1000, 10), (2, 1), 1)


def test_trains_with_its_projector():
    model = build()
    apply_tune(model, {'vision': 'frozen', 'projector': 'full', 'llm': 'frozen'})
    assert [n for n, p in model.named_parameters() if p.requires_grad and not n.startswith('projector')] == [
        'merge.image_newline'
    ]
    summary = trainable_summary(model)['projector']
    assert summary['total'] == summary['trained'] == sum(p.numel() for p in model.projector.parameters()) + 24
    model(**batch())['loss'].backward()
    assert model.merge.image_newline.grad.abs().sum() > 0
    apply_tune(model, {'projector': 'frozen', 'llm': 'full'})
    assert not model.merge.image_newline.requires_grad


def test_a_pass_without_pictures_touches_everything_that_the_others_touch(monkeypatch):
    """Ranks must run the same modules; the loss stays that of the text."""
    model = build(projector={'type': 'MoEMLP'}).train()
    text = batch(pictured=False)
    want = model(**text)['loss']
    monkeypatch.setattr(VLM, '_must_touch_vision', lambda self: True)
    got = model(**text)
    torch.testing.assert_close(got['loss'], want, rtol=0, atol=0)
    assert got['balance_loss'] == 0
    got['loss'].backward()
    without = {name for name, p in model.named_parameters() if p.grad is None}
    assert not without
    touched = [p.grad for name, p in model.named_parameters() if not name.startswith('llm')]
    assert all((grad == 0).all() for grad in touched)


def test_auxiliary_losses():
    model = build(projector={'type': 'MoEMLP', 'balance_coef': 0.5}).train()
    inputs = batch()
    plain = copy.deepcopy(model)
    plain.projector.balance_coef = 0.0
    token = plain(**inputs)
    assert set(token) == {'loss'}
    got = model(**inputs)
    assert set(got) == {'loss', 'balance_loss'}
    assert not got['balance_loss'].requires_grad
    assert got['balance_loss'] > 0.4
    torch.testing.assert_close(got['loss'], token['loss'] + got['balance_loss'])
    # A quarter of a step: the token loss follows num_items, the auxiliary loss the number of passes.
    part = model(**inputs, num_items=10.0, micro_batches=4)
    torch.testing.assert_close(part['balance_loss'], got['balance_loss'] / 4)
    torch.testing.assert_close(part['loss'], plain(**inputs, num_items=10.0)['loss'] + part['balance_loss'])
    # Text only: nothing was routed, and nothing is left over from the pass before.
    assert set(model(**batch(pictured=False))) == {'loss'}
    assert set(model.eval()(**inputs)) == {'loss'}


def test_meta_build():
    with torch.device('meta'):
        meta = build()
    assert meta.merge.image_newline.is_meta
    assert {k: v.shape for k, v in meta.named_parameters()} == {k: v.shape for k, v in build().named_parameters()}


def test_tiles_of_another_size_and_a_shuffling_projector():
    model = build(projector={'type': 'PixelShuffleMLP'}).eval()
    assert model.tokens_per_tile == 4
    tokens = arranged_tokens((50, 30), (2, 1), 4)
    ids = torch.tensor([[1, *[SLOT] * tokens, 5]])
    with torch.no_grad():
        out = model(ids, None, torch.rand(3, 3, SIDE, SIDE), mode='tensor', image_sizes=torch.tensor([[50, 30]]),
                    image_grids=torch.tensor([[2, 1]]))  # fmt: skip
    assert out.shape == (1, tokens + 2, 64)


def test_the_order_of_transformers():
    """``LlavaNextModel.pack_image_features``, over sizes of every proportion."""
    tiler = AnyResTiler(tile_size=SIDE)
    config = SimpleNamespace(
        vision_config=SimpleNamespace(image_size=SIDE, patch_size=PATCH),
        image_grid_pinpoints=[list(pair[::-1]) for pair in tiler.grid_pinpoints],  # (height, width) there
    )
    merge, rng = AnyResMerge(8), torch.Generator().manual_seed(3)
    for _ in range(20):
        sizes = [tuple(size) for size in torch.randint(1, 300, (3, 2), generator=rng).tolist()]
        grids = [tiler.grid(*size) for size in sizes]
        features = [torch.rand(tiler.num_tiles(*size), 16, 8, generator=rng) for size in sizes]
        want, _ = LlavaNextModel.pack_image_features(
            SimpleNamespace(config=config), features, [size[::-1] for size in sizes], 'default', merge.image_newline
        )
        assert torch.equal(merge(torch.cat(features), sizes, grids), torch.cat(want))


@pytest.mark.parametrize('shrink_to', [1, 4, 9])
def test_the_order_and_shrinking_of_onevision(shrink_to):
    """``LlavaOnevisionModel.pack_image_features``, bit for bit, with pictures that stand among others too."""
    tiler = OneVisionTiler(tile_size=SIDE, shrink_to=shrink_to)
    config = SimpleNamespace(
        vision_config=SimpleNamespace(image_size=SIDE, patch_size=PATCH),
        image_grid_pinpoints=[list(pair[::-1]) for pair in tiler.grid_pinpoints],  # (height, width) there
    )
    merge, rng = AnyResMerge(8, shrink_to=shrink_to), torch.Generator().manual_seed(3)
    shorter = 0
    for round_ in range(30):
        limit = tiler.share(1 + round_ % 2)
        sizes = [tuple(size) for size in torch.randint(1, 400, (3, 2), generator=rng).tolist()]
        grids = [tiler.grid(*size, limit) for size in sizes]
        features = [torch.rand(tiler.num_tiles(*size, limit), 16, 8, generator=rng) for size in sizes]
        want, _ = LlavaOnevisionModel.pack_image_features(
            SimpleNamespace(config=config), features, [size[::-1] for size in sizes], merge.image_newline,
            f'anyres_max_{shrink_to}',
        )  # fmt: skip
        assert torch.equal(merge(torch.cat(features), sizes, grids), torch.cat(want))
        counts = [tiler.num_tokens(*size, 16, limit) for size in sizes]
        assert merge.num_tokens(sizes, grids, 16) == counts == [len(tokens) for tokens in want]
        shorter += sum(arranged_tokens(*pair, 16) > len(it) for *pair, it in zip(sizes, grids, want, strict=True))
    assert shorter > 5


def test_gradients_pass_through_what_is_shrunk():
    merge, features = AnyResMerge(8, shrink_to=1), torch.rand(5, 16, 8, requires_grad=True)
    merge(features, [(80, 80)], [(2, 2)]).sum().backward()
    assert (features.grad > 0).all()
    with pytest.raises(ConfigError, match='AnyResMerge: shrink_to 0'):
        AnyResMerge(8, shrink_to=0)
