"""The numbers of the original LLaVA (golden/README of each case), its weights under our names.

What is done differently, on purpose:
- a text-only sample owns a dummy picture there, whose features are thrown away; here it has none;
- samples that are too long are cut after merging there, also through a picture; here pictures are never cut
  (``ChatEncoder``), so of ``merge_truncated`` the labels and masks are compared;
- rows are filled up with zero embeddings there, with padding tokens here; both are hidden by the mask;
- its tower never trains (``no_grad``), so the goldens have no gradients for it; here it is frozen by ``tune``.
"""

from __future__ import annotations

import pytest
import torch

from mmft.data.batches.collate import PackCollator, PadCollator, pictures
from mmft.errors import ShapeError
from mmft.geometry import MERGE_MODES, arranged_tokens
from mmft.models import VLM
from mmft.models.normalizer import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
from mmft.structures import IGNORE_INDEX, Sample
from tests.helpers import golden_json, golden_tensors

TOLERANCE = {'atol': 1e-5, 'rtol': 1e-5}
CASES = ['llava15', 'llava15_linear_cls_patch', 'llava16_anyres']
OWNERS = [[0], [1, 2], [], [4]]  # pictures of the four samples; the dummy of the third, number 3, is left out
IMAGE = -200  # the original's placeholder


def build(case: str, merge: str = 'flat') -> VLM:
    config, tower = golden_json(case, 'config.json'), golden_json(case, 'vision_config.json')
    fields = ('hidden_size', 'num_hidden_layers', 'num_attention_heads', 'intermediate_size')
    vision = {key: tower[key] for key in (*fields, 'image_size', 'patch_size', 'hidden_act', 'layer_norm_eps')}
    llm = {key: config[key] for key in (*fields, 'num_key_value_heads', 'vocab_size', 'rms_norm_eps', 'rope_theta')}
    vision |= {
        'select_layer': config['mm_vision_select_layer'],
        'select_feature': config['mm_vision_select_feature'],
    }
    used = {i for row in golden_tensors(case, 'inputs')['input_ids'].tolist() for i in row}
    model = VLM(
        {'type': 'CLIP', **vision},
        {'type': 'Linear' if config['mm_projector_type'] == 'linear' else 'MLP'},
        {'type': 'Llama', **llm, 'pad_token_id': 0, 'max_position_embeddings': config['max_position_embeddings']},
        image_token_id=max(set(range(3, 256)) - used),
        pixel_mean=OPENAI_CLIP_MEAN,
        pixel_std=OPENAI_CLIP_STD,
        merge=None if merge == 'flat' else {'type': 'AnyResMerge', **MERGE_MODES[merge]},
    )
    state = {ours(name): tensor for name, tensor in golden_tensors(case, 'model').items()}
    if model.merge is None or not model.merge.newline:
        state.pop('merge.image_newline', None)
    model.load_state_dict(state)
    model.vision.requires_grad_(False)
    return model.eval()


def ours(name: str) -> str:
    """The original's name of a tensor -> ours."""
    for theirs, here in (
        ('model.vision_tower.vision_tower.vision_model.', 'vision.tower.'),
        ('model.mm_projector.weight', 'projector.linear.weight'),
        ('model.mm_projector.bias', 'projector.linear.bias'),
        ('model.mm_projector.', 'projector.mlp.'),
        ('model.image_newline', 'merge.image_newline'),
        ('', 'llm.lm.'),
    ):
        if name.startswith(theirs):
            return here + name.removeprefix(theirs)
    raise AssertionError(name)


def samples(model: VLM, case: str, merge: str = 'flat', tiles: int = 1) -> list[Sample]:
    """The four samples of a case as the encoder would make them, pictures as the original's float pixels."""
    inputs = golden_tensors(case, 'inputs')
    results = golden_json(case, 'results.json')
    made = []
    for row, owned in enumerate(OWNERS):
        real = inputs['attention_mask'][row].bool()
        pixels, sizes, grids, counts = [], [], [], []
        for number in owned:
            if 'images' in inputs:
                picture = inputs['images'][number : number + 1]
                picture = torch.cat([picture, inputs['images'].flip(0)[number : number + 1]])[:tiles]
                counts.append(tiles * model.tokens_per_tile)
            else:
                picture = inputs[f'images_{number}']
                sizes.append(tuple(results['image_sizes'][number]))
                grids.append(tuple(results['grid_shapes_wh'][number]))
                flat = len(picture) * model.tokens_per_tile
                rule = MERGE_MODES.get(merge)
                counts.append(arranged_tokens(sizes[-1], grids[-1], model.tokens_per_tile, **rule) if rule else flat)
            pixels.append(picture)
        ids, labels = [], []
        ids_left = iter(counts)
        for token, label in zip(inputs['input_ids'][row][real], inputs['labels'][row][real], strict=True):
            times = next(ids_left) if token == IMAGE else 1
            ids += [model.image_token_id if token == IMAGE else int(token)] * times
            labels += [IGNORE_INDEX if token == IMAGE else int(label)] * times
        made.append(
            Sample(
                torch.tensor(ids),
                torch.tensor(labels),
                torch.cat(pixels) if pixels else None,
                [len(picture) for picture in pixels],
                sizes or [(1, 1)] * len(pixels),
                image_grids=grids if merge != 'flat' else [],
            )
        )
    return made


def batch(model: VLM, made: list[Sample]) -> dict:
    collated = PadCollator()(made)
    collated.pop('meta')
    return collated


def mode(case: str) -> str:
    return golden_json(case, 'config.json')['mm_patch_merge_type']


def compare_logits(logits: torch.Tensor, mask: torch.Tensor, outputs: dict) -> None:
    """Logits (B,L,V) with the original's: all of them, or the last 12 of each sample where no more are kept."""
    if 'logits' in outputs:
        torch.testing.assert_close(logits[mask], outputs['logits'][mask], **TOLERANCE)
    else:
        last = torch.stack([row[keep][-12:] for row, keep in zip(logits, mask, strict=True)])
        torch.testing.assert_close(last, outputs['logits_last12_real'], **TOLERANCE)


@pytest.fixture(scope='module', params=CASES)
def case(request):
    """(name, model, samples, outputs) of one golden case."""
    model = build(request.param, mode(request.param))
    return (
        request.param,
        model,
        samples(model, request.param, mode(request.param)),
        golden_tensors(request.param, 'outputs'),
    )


def test_merged_embeddings(case):
    _, model, made, outputs = case
    inputs = batch(model, made)
    mask = outputs['merge/attention_mask'].bool()
    assert torch.equal(inputs['attention_mask'], mask)
    assert torch.equal(inputs['labels'], outputs['merge/labels'])
    # Once more, cut short: same labels and mask up to there.
    short = outputs['merge_truncated/labels'].shape[1]
    assert torch.equal(inputs['labels'][:, :short], outputs['merge_truncated/labels'])
    assert torch.equal(mask[:, :short], outputs['merge_truncated/attention_mask'].bool())
    if 'merge_with_position_ids/position_ids' in outputs:
        want = outputs['merge_with_position_ids/position_ids']
        assert torch.equal(inputs['position_ids'][mask], want[mask])
    pixels = {key: inputs.get(key) for key in ('pixel_values', 'image_sizes', 'image_grids')}
    with torch.no_grad():
        embeds = model.fuse(inputs['input_ids'], **pixels)
        torch.testing.assert_close(embeds[mask], outputs['merge/inputs_embeds'][mask], **TOLERANCE)
        # Padded on the left, as generation does, the same embeddings stand at the end of the row.
        left = inputs['input_ids'].clone()
        for row, sample in enumerate(made):
            left[row] = 0
            left[row, -len(sample) :] = sample.input_ids
        embeds = model.fuse(left, **pixels)
    mask = outputs['merge_left/attention_mask'].bool()[2]
    torch.testing.assert_close(embeds[2][mask], outputs['merge_left/inputs_embeds_of_sample_2'][mask], **TOLERANCE)


@pytest.mark.parametrize('name', CASES[:2])
def test_several_tiles_without_a_grid(name):
    """Five-dimensional images: two tiles a picture, one after the other."""
    model, outputs = build(name), golden_tensors(name, 'outputs')
    inputs = batch(model, samples(model, name, tiles=2))
    assert torch.equal(inputs['labels'], outputs['merge_five_d_flat/labels'])
    mask = outputs['merge_five_d_flat/attention_mask'].bool()
    with torch.no_grad():
        embeds = model.fuse(inputs['input_ids'], inputs['pixel_values'])
    torch.testing.assert_close(
        embeds[0][mask[0]], outputs['merge_five_d_flat/inputs_embeds_of_sample_0'][mask[0]], **TOLERANCE
    )


@pytest.mark.parametrize('merge', ['flat', 'spatial'])
def test_the_other_ways_to_merge(merge):
    name = 'llava16_anyres'
    model, outputs = build(name, merge), golden_tensors(name, 'outputs')
    inputs = batch(model, samples(model, name, merge))
    mask = outputs[f'merge_{merge}/attention_mask'].bool()
    length = mask.shape[1]
    assert torch.equal(inputs['labels'][:, :length], outputs[f'merge_{merge}/labels'])
    pixels = {key: inputs.get(key) for key in ('pixel_values', 'image_sizes', 'image_grids')}
    assert (pixels['image_grids'] is None) == (merge == 'flat')
    with torch.no_grad():
        embeds = model.fuse(inputs['input_ids'], **pixels)[:, :length]
    torch.testing.assert_close(
        embeds[1][mask[1]], outputs[f'merge_{merge}/inputs_embeds_of_sample_1'][mask[1]], **TOLERANCE
    )


def test_logits(case):
    name, model, made, outputs = case
    inputs = batch(model, made)
    mask = inputs['attention_mask']
    with torch.no_grad():
        logits = model(**inputs, mode='tensor')
    compare_logits(logits, mask, outputs)
    if name == 'llava16_anyres':
        torch.testing.assert_close(logits[0, :20], outputs['logits_first20_sample0'], **TOLERANCE)


@pytest.mark.parametrize('checkpointing', [False, True])
def test_loss_and_gradient_of_every_parameter(case, checkpointing):
    name, model, made, outputs = case
    results = golden_json(name, 'results.json')
    assert results['loss'] == pytest.approx(float(outputs['loss']))
    if checkpointing:
        model = build(name, mode(name)).train()
        model.gradient_checkpointing_enable()
    model.zero_grad()
    loss = model(**batch(model, made))['loss']
    torch.testing.assert_close(loss, outputs['loss'], atol=1e-5, rtol=1e-6)
    loss.backward()
    grads = dict(model.named_parameters())
    for theirs, norm in results['grads'].items():
        grad = grads[ours(theirs)].grad
        assert (grad is None) == (norm is None), theirs
        if norm is not None:
            assert float(grad.norm()) == pytest.approx(norm, rel=1e-4), theirs
    squares = sum(float(p.grad.double().square().sum()) for p in model.parameters() if p.grad is not None)
    assert squares**0.5 == pytest.approx(results['grad_norm_total'], rel=1e-5)
    for key, want in outputs.items():
        if key.startswith('grad/'):
            torch.testing.assert_close(grads[ours(key.removeprefix('grad/'))].grad, want, atol=1e-5, rtol=1e-4)


def test_greedy_ids(case):
    name, model, made, _ = case
    options = {'max_new_tokens': 10, 'do_sample': False, 'pad_token_id': 0, 'eos_token_id': None}
    for key, want in golden_json(name, 'generate.json').items():
        first = [made[0]] if key == 'image' else []
        tokens = sum(int((sample.input_ids == model.image_token_id).sum()) for sample in first)
        ids = [
            token
            for given in want['input_ids']
            for token in ([model.image_token_id] * tokens if given == IMAGE else [given])
        ]
        got = model.generate(torch.tensor([ids]), **pictures(first), **options)
        assert got[0].tolist() == want['output_ids'][1:]  # the original puts a begin token before the new ones


def test_a_packed_row_is_its_samples(case):
    _, model, made, _ = case
    padded, packed = batch(model, made), PackCollator()(made)
    packed.pop('meta')
    with torch.no_grad():
        apart = model(**padded, mode='tensor')[padded['attention_mask']]
        together = model(**packed, mode='tensor')[0]
    torch.testing.assert_close(together, apart, **TOLERANCE)


def test_grids_and_merge_belong_together():
    name = 'llava16_anyres'
    flat, spatial = build(name), build(name, 'spatial')
    with pytest.raises(ShapeError, match='the batch has image_grids, but the model no merge'):
        flat(**batch(flat, samples(flat, name, 'spatial')))
    with pytest.raises(ShapeError, match='the model has a merge, but the batch no image_grids'):
        spatial(**batch(spatial, samples(spatial, name)))
    unpad = build(name, 'spatial_unpad')
    with pytest.raises(ShapeError, match=r'image placeholders.*padding left out and newlines counted'):
        unpad(**batch(unpad, samples(unpad, name, 'spatial')))
