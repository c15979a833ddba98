"""The numbers of the original InternVL (golden/README of each case), from its own weights in its own layout.

Where the original is wrong, the test says so and asserts what is right:
- a dummy tile (image_flags 0) stands for 'no picture' there; here such tiles are simply not passed;
- features and placeholders that do not match give ``loss * 0`` and a printed line there; here they raise;
- InternLM2's dynamic rope keeps the long table after one long input; here short inputs give fresh results.
"""

from __future__ import annotations

import pytest
import torch

from mmft.checkpoint import load
from mmft.errors import ShapeError
from mmft.models.projectors.pixel_shuffle_mlp import pixel_shuffle
from tests.helpers import GOLDEN, INTERNVL_CASES, golden_json, golden_tensors

TOLERANCE = {'atol': 1e-5, 'rtol': 1e-5}
# Both forms of the tower and of the shuffle; the other cases have the first one's tower, which their logits show.
TOWERS = ('internvl2_internlm2', 'internvl2_internlm2_rms_qknorm_v1')


def open_case(name):
    """(name, model in float32, inputs, outputs, results) of one golden case."""
    model, encoder = load(GOLDEN / name, dtype='float32')
    assert encoder is None  # the case holds no tokenizer
    results = golden_json(name, 'results.json')
    model.image_token_id = results['img_context_token_id']
    return name, model, golden_tensors(name, 'inputs'), golden_tensors(name, 'outputs'), results


@pytest.fixture(scope='module', params=INTERNVL_CASES)
def case(request):
    return open_case(request.param)


@pytest.fixture(scope='module', params=TOWERS)
def tower_case(request):
    return open_case(request.param)


def batch(inputs):
    real = inputs['image_flags'].flatten() == 1
    return {'input_ids': inputs['input_ids'], 'attention_mask': inputs['attention_mask'],
            'pixel_values': inputs['pixel_values'][real]}  # fmt: skip


def test_there_are_cases():
    assert len(INTERNVL_CASES) >= 4


def test_vision_tower(tower_case):
    _, model, inputs, outputs, _ = tower_case
    pixels = inputs['pixel_values']
    names = {f'vit_hidden_{depth}': depth for depth in range(len(model.vision.layers) + 1)}
    with torch.no_grad():
        for name, depth in {**names, 'vit_last': len(model.vision.layers)}.items():
            got = model.vision.hidden_states(pixels[: len(outputs[name])], depth)
            torch.testing.assert_close(got, outputs[name], **TOLERANCE)
        other = inputs['pixel_values_other_size']
        got = model.vision.hidden_states(other, len(model.vision.layers))
        torch.testing.assert_close(got, outputs['vit_last_other_size'], **TOLERANCE)
        side = other.shape[-1] // model.vision.patch_size
        table = model.vision.embeddings.positions(side, side)
        torch.testing.assert_close(table, outputs['resized_position_embedding'], **TOLERANCE)


@pytest.mark.parametrize('version', ['v1', 'v2'])
def test_projector(tower_case, version):
    _, model, inputs, outputs, _ = tower_case
    with torch.no_grad():
        patches = model.vision(inputs['pixel_values'])
        side = round(patches.shape[1] ** 0.5)
        for suffix, factor in (('', 2), ('_scale_0.25', 4)):
            want = outputs[f'pixel_shuffle_{version}{suffix}']
            got = pixel_shuffle(patches[: len(want)].unflatten(1, (side, side)), factor, version)
            torch.testing.assert_close(got, want, **TOLERANCE)
        kept, model.projector.version = model.projector.version, version
        try:
            got = model.projector(patches)
        finally:
            model.projector.version = kept
        torch.testing.assert_close(got, outputs[f'extract_feature_{version}'], **TOLERANCE)
        got = model.image_features(inputs['pixel_values_other_size'])
        torch.testing.assert_close(got, outputs['extract_feature_other_size'], **TOLERANCE)


def test_logits(case):
    _, model, inputs, outputs, _ = case
    mask = inputs['attention_mask'].bool()
    with torch.no_grad():
        embeds = model.fuse(inputs['input_ids'], batch(inputs)['pixel_values'])
        torch.testing.assert_close(embeds[mask], outputs['inputs_embeds'][mask], **TOLERANCE)
        for positions in (None, inputs['position_ids']):
            logits = model(**batch(inputs), position_ids=positions, mode='tensor')
            torch.testing.assert_close(logits[mask], outputs['logits'][mask], **TOLERANCE)


@pytest.mark.parametrize('reduction', ['', '_token', '_sample', '_square'])
def test_loss_and_gradients(case, reduction):
    _, model, inputs, outputs, results = case
    weight = inputs[f'loss_weight{reduction}'] if reduction else None
    model.zero_grad()
    loss = model(**batch(inputs), labels=inputs['labels'], loss_weight=weight)['loss']
    torch.testing.assert_close(loss, outputs[f'loss{reduction}'], atol=1e-5, rtol=1e-6)
    loss.backward()
    squares = sum(float(p.grad.double().square().sum()) for p in model.parameters() if p.grad is not None)
    assert squares**0.5 == pytest.approx(results[f'grad_norm_total{reduction}'], rel=1e-5)


def test_gradient_of_every_parameter(case):
    _, model, inputs, outputs, results = case
    from mmft.checkpoint import read_layout

    model.zero_grad()
    model(**batch(inputs), labels=inputs['labels'])['loss'].backward()
    named = dict(model.named_parameters())
    steps = read_layout(GOLDEN / case[0]).to_theirs(named)
    grads = {}
    for step in steps:
        grads |= step(lambda name: named[name].grad if named[name].grad is not None else torch.zeros_like(named[name]))
    assert set(grads) == set(results['grads'])
    for name, norm in results['grads'].items():
        assert float(grads[name].norm()) == pytest.approx(norm or 0.0, rel=1e-4, abs=1e-6), name
    for name, want in outputs.items():
        if name.startswith('grad/'):
            torch.testing.assert_close(grads[name.removeprefix('grad/')], want, atol=1e-5, rtol=1e-4)


def test_mismatch_is_an_error(case):
    # The original multiplies the loss by 0 and goes on; generate() raises there too.
    _, model, inputs, _, _ = case
    wrong = {**batch(inputs), 'input_ids': inputs['mismatch_input_ids'], 'labels': inputs['labels']}
    tokens = int((wrong['input_ids'] == model.image_token_id).sum())
    with pytest.raises(ShapeError, match=rf'{tokens} image placeholders.* image features'):
        model(**wrong)


def test_long_then_short(case):
    _, model, inputs, outputs, _ = case
    with torch.no_grad():
        fresh = model(inputs['short_input_ids'], mode='tensor')[0, -6:]
        torch.testing.assert_close(fresh, outputs['short_logits_fresh_last6'], **TOLERANCE)
        long = model(inputs['long_input_ids'], mode='tensor')[0, -6:]
        torch.testing.assert_close(long, outputs['long_logits_last6'], **TOLERANCE)
        # Bug of the original: its rope table stays long (short_logits_after_long differs). Ours is fresh again.
        again = model(inputs['short_input_ids'], mode='tensor')[0, -6:]
        torch.testing.assert_close(again, outputs['short_logits_fresh_last6'], **TOLERANCE)


def test_greedy_ids(case):
    name, model, inputs, _, _ = case
    options = {'max_new_tokens': 12, 'do_sample': False, 'pad_token_id': 0, 'eos_token_id': None}
    cases = golden_json(name, 'generate.json')
    for key in ('single', 'text_only', 'single_with_eos'):
        want = cases[key]['output_ids'][1:]  # the original's generate puts a begin token before the new ones
        pixels = inputs['pixel_values'][cases[key]['tiles']] if 'tiles' in cases[key] else None
        more = {**options, 'eos_token_id': cases[key].get('eos_token_id')}
        got = model.generate(torch.tensor([cases[key]['input_ids']]), pixels, **more)
        assert got[0].tolist() == want, key
    padded = cases['batch_left_padded']
    tiles = [i for sample in padded['tiles'] for i in sample]
    ids, mask = torch.tensor(padded['input_ids']), torch.tensor(padded['attention_mask'])
    got = model.generate(ids, inputs['pixel_values'][tiles], mask, **options)
    assert got.tolist() == [row[1:] for row in padded['output_ids']]
    crossing = cases['llm_only_crossing_max_position']
    want = crossing['output_ids']
    got = model.generate(torch.tensor([crossing['input_ids']]), **{**options, 'max_new_tokens': len(want)})
    assert got[0].tolist() == want


def test_packed_row():
    """Three samples in one row: position_ids that restart keep them apart, without a mask."""
    model, _ = load(GOLDEN / 'internvl2_internlm2', dtype='float32')
    inputs, outputs = (golden_tensors('internvl_packed_forward', name) for name in ('inputs', 'outputs'))
    results = golden_json('internvl_packed_forward', 'results.json')
    model.image_token_id = golden_json('internvl2_internlm2', 'results.json')['img_context_token_id']
    rows = results['rows']
    real = inputs['image_flags'].flatten() == 1
    # The padding goes through as a segment of its own: dynamic rope follows the length of the whole row.
    row = {key: inputs[key] for key in ('input_ids', 'position_ids')} | {'pixel_values': inputs['pixel_values'][real]}
    logits = model(**row, mode='tensor')
    torch.testing.assert_close(logits[:, :rows], outputs['logits'], **TOLERANCE)
    for reduction in ('token', 'sample', 'square'):
        model.zero_grad()
        loss = model(**row, labels=inputs['labels'], loss_weight=inputs[f'loss_weight_{reduction}'])['loss']
        assert loss.item() == pytest.approx(results[f'loss_{reduction}'], rel=1e-5)
        loss.backward()
        norm = torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm()
        assert norm.item() == pytest.approx(results[f'grad_norm_total_{reduction}'], rel=1e-4)
