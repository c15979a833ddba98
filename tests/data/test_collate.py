"""Collators: masks by length, restarting positions, and no token of one sample predicted from another."""

from __future__ import annotations

import pytest
import torch

from mmft.data.batches.collate import PackCollator, PadCollator
from mmft.engine.loops import trained_weight
from mmft.errors import ConfigError, ShapeError
from mmft.registry import COLLATORS
from mmft.structures import IGNORE_INDEX, Sample
from tests.helpers import golden_tensors


def sample(ids, tiles=0, side=4, **meta):
    ids = torch.tensor(ids)
    labels = ids.clone()
    labels[: len(ids) // 2] = IGNORE_INDEX
    pixels = torch.full((tiles, 3, side, side), tiles, dtype=torch.uint8) if tiles else None
    return Sample(ids, labels, pixels, num_tiles=[tiles] if tiles else [], meta=meta)


def test_pad():
    batch = PadCollator(pad_token_id=9)([sample([5, 6, 7], 2, line=1), sample([1, 2, 3, 4, 5]), sample([8], 1)])
    assert batch['input_ids'].tolist() == [[5, 6, 7, 9, 9], [1, 2, 3, 4, 5], [8, 9, 9, 9, 9]]
    assert batch['labels'].tolist() == [[-100, 6, 7, -100, -100], [-100, -100, 3, 4, 5], [8, -100, -100, -100, -100]]
    assert batch['attention_mask'].dtype == torch.bool
    assert batch['attention_mask'].sum(1).tolist() == [3, 5, 1]
    assert batch['position_ids'].tolist() == [[0, 1, 2, 3, 4]] * 3
    assert batch['pixel_values'].dtype == torch.uint8
    assert batch['pixel_values'][:, 0, 0, 0].tolist() == [2, 2, 1]
    assert batch['meta'] == [{'line': 1, 'num_tiles': [2]}, {'num_tiles': []}, {'num_tiles': [1]}]


def test_the_padding_id_inside_a_text_stays_visible():
    # Bug of the original (golden README 3.8): the mask is made from `input_ids != 0`, and 0 is '!' in Qwen2.
    batch = PadCollator(pad_token_id=0)([sample([4, 0, 0, 3]), sample([0, 1])])
    assert batch['attention_mask'].tolist() == [[True] * 4, [True, True, False, False]]


@pytest.mark.parametrize(('multiple', 'length'), [(None, 5), (1, 5), (4, 8), (5, 5), (64, 64)])
def test_pad_to_multiple(multiple, length):
    samples = [sample([1, 2, 3, 4, 5])]
    for collator in (PadCollator, PackCollator):
        batch = collator(pad_to_multiple_of=multiple)(samples)
        assert batch['input_ids'].shape == batch['labels'].shape == batch['position_ids'].shape == (1, length)
        assert (batch['labels'][0, 5:] == IGNORE_INDEX).all()


def test_pack():
    first = sample([5, 6, 7], 2)
    first.labels[0] = 5  # nothing may ask the sample before it for this token
    batch = PackCollator()([sample([1, 2]), first, sample([8, 9, 10, 11], 1)])
    assert batch['input_ids'].tolist() == [[1, 2, 5, 6, 7, 8, 9, 10, 11]]
    assert batch['position_ids'].tolist() == [[0, 1, 0, 1, 2, 0, 1, 2, 3]]
    assert batch['labels'].tolist() == [[-100, 2, -100, 6, 7, -100, -100, 10, 11]]
    assert batch['attention_mask'] is None
    assert batch['pixel_values'].shape == (3, 3, 4, 4)
    assert first.labels[0] == 5, 'the sample itself is left alone'


def test_packed_padding_is_a_segment_of_its_own():
    batch = PackCollator(pad_token_id=7, pad_to_multiple_of=4)([sample([1, 2]), sample([3, 4, 5])])
    assert batch['position_ids'].tolist() == [[0, 1, 0, 1, 2, 0, 1, 2]]
    assert batch['input_ids'][0, 5:].tolist() == [7, 7, 7]


@pytest.mark.parametrize('collator', [PadCollator, PackCollator])
def test_a_broken_sample_makes_the_batch_smaller(collator):
    whole = collator()([sample([1, 2], 1), sample([3, 4])])
    less = collator()([None, sample([1, 2], 1), None, sample([3, 4]), None])
    for key in ('input_ids', 'labels', 'position_ids', 'pixel_values'):
        assert torch.equal(whole[key], less[key])


@pytest.mark.parametrize('collator', [PadCollator, PackCollator])
def test_a_batch_of_broken_samples_trains_nothing(collator):
    batch = collator(pad_token_id=3)([None, None])
    assert batch['input_ids'].tolist() == [[3]]
    assert batch['labels'].tolist() == [[IGNORE_INDEX]]
    assert batch['pixel_values'] is None
    assert batch['meta'] == []


def test_text_only():
    assert PadCollator()([sample([1, 2]), sample([3])])['pixel_values'] is None


def test_tiles_of_two_sizes_are_refused_with_both_places():
    samples = [sample([1, 2], 1, 4, file='a.jsonl', line=3), sample([1, 2], 1, 8, file='b.jsonl', line=9)]
    with pytest.raises(ShapeError) as caught:
        PadCollator()(samples)
    assert '(3, 8, 8) in b.jsonl:9' in str(caught.value)
    assert '(3, 4, 4) in a.jsonl:3' in str(caught.value)


def test_labels_must_fit():
    with pytest.raises(ShapeError, match=r'\(2,\) labels for \(3,\) tokens in x.jsonl:2'):
        PadCollator()([Sample(torch.ones(3), torch.ones(2), meta=dict(file='x.jsonl', line=2))])
    with pytest.raises(ConfigError, match='pad_to_multiple_of=0'):
        PadCollator(pad_to_multiple_of=0)


def test_registered():
    assert isinstance(COLLATORS.build(dict(type='PackCollator')), PackCollator)
    assert COLLATORS.build(dict(type='PadCollator'), default_args=dict(pad_token_id=5)).pad_token_id == 5


@pytest.mark.parametrize('reduction', ['sample', 'square'])
def test_weights_of_tokens_are_the_originals(reduction):
    """``packed_collate_fn`` of OpenGVLab/InternVL wrote these; ``test_internvl_golden.py`` has its losses with them."""
    rows, packed = (golden_tensors(case, 'inputs') for case in ('internvl2_internlm2', 'internvl_packed_forward'))
    samples = [Sample(ids, labels) for ids, labels in zip(rows['input_ids'], rows['labels'], strict=True)]
    starts = (packed['position_ids'][0] == 0).nonzero().flatten()[:3].tolist()
    parts = [slice(a, b) for a, b in zip(starts, [*starts[1:], None], strict=True)]
    parts[-1] = slice(starts[-1], int((packed['labels'][0] != IGNORE_INDEX).nonzero().max()) + 1)
    in_a_row = [Sample(packed['input_ids'][0, part], packed['labels'][0, part]) for part in parts]
    for collator, given, want in ((PadCollator, samples, rows), (PackCollator, in_a_row, packed)):
        batch = collator(loss_reduction=reduction)(given)
        trained = batch['labels'] != IGNORE_INDEX
        assert batch['loss_weight'].shape == batch['labels'].shape
        kept = want[f'loss_weight_{reduction}'][want['labels'] != IGNORE_INDEX]
        torch.testing.assert_close(batch['loss_weight'][trained], kept)
        # What a step divides by: a sample counts for one, or for the square root of its trained tokens.
        counts = [int((s.labels != IGNORE_INDEX).sum()) for s in given]
        total = len(counts) if reduction == 'sample' else sum(n**0.5 for n in counts)
        assert trained_weight(batch) == pytest.approx(total)


def test_by_default_every_token_counts_alike():
    for collator in (PadCollator, PackCollator):
        assert 'loss_weight' not in collator()([sample([1, 2, 3])])
        with pytest.raises(ConfigError, match=r"loss_reduction='mean'"):
            collator(loss_reduction='mean')


@pytest.mark.parametrize('collator', [PadCollator, PackCollator])
def test_a_sample_without_a_trained_token_weighs_nothing(collator):
    nothing = Sample(torch.tensor([1, 2]), torch.full((2,), IGNORE_INDEX))
    batch = collator(loss_reduction='square')([nothing, sample([1, 2, 3, 4]), None])
    assert batch['loss_weight'].isfinite().all()
    assert trained_weight(batch) == pytest.approx(2**0.5)
