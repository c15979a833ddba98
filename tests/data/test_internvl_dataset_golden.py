"""Whole samples (ids, labels, tiles) and batches against OpenGVLab's LazySupervisedDataset and its collator.

Bugs of the original that we do not share, by the bug list that came with the golden data:
[3.8] its collator pads with 0 and makes the attention mask from ``input_ids != 0``: every '!' of Qwen2 (id 0) is
hidden, and rows that were padded with another id before are attended to the end; [1.6] a text-only sample owns a white
picture.
"""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch

from mmft.data.batches.collate import PadCollator
from mmft.data.encoder import ChatEncoder
from mmft.data.records.dataset import ChatDataset
from tests.helpers import GOLDEN, golden_json

GROUPS = golden_json('internvl_dataset', 'items.json')
MORE = golden_json('internvl_dataset', 'more.json')
MEAN, STD = (
    np.array(values, dtype=np.float32)[:, None, None] for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
)


def checksum(tiles):
    """sha256 of the normalised float32 tiles, computed as torchvision's ToTensor and Normalize do."""
    scaled = tiles.numpy().astype(np.float32) / np.float32(255)
    return hashlib.sha256(((scaled - MEAN) / STD).tobytes()).hexdigest()


def encoder_of(group, **processor):
    tiler = {'type': 'DynamicTiler', 'tile_size': group['image_size'], 'max_tiles': group['max_dynamic_patch']}
    return ChatEncoder(
        GOLDEN / 'tokenizers' / group['tokenizer'],
        group['template'],
        processor or {**tiler, 'thumbnail': group['use_thumbnail']},
        group['num_image_token'],
        background=None,
    )


def samples_of(encoder, annotation):
    """InternVL's jsonl; its one picture without a placeholder belongs in front of the first question."""
    file = GOLDEN / 'internvl_dataset' / annotation
    dataset = ChatDataset(file, image_root=GOLDEN / 'internvl_pixels', format='internvl', encoder=encoder, min_side=1)
    return [dataset[index] for index in range(len(dataset))]


def check_picture(sample, item):
    if item['image_flags'] == [0]:  # the original's stand-in for no picture [1.6]
        assert sample.pixel_values is None
    else:
        assert list(sample.pixel_values.shape) == item['pixel_values_shape']
        assert checksum(sample.pixel_values) == item['pixel_values_sha256']
    assert sum(sample.num_tiles) == sum(item['image_flags'])


@pytest.mark.parametrize('group', GROUPS, ids=lambda g: f'{g["template"]}-{g["annotation"]}-{g["model_max_length"]}')
def test_samples_and_batches_are_the_originals(group):
    samples = samples_of(encoder_of(group), group['annotation'])
    assert len(samples) == len(group['items'])
    for sample, item in zip(samples, group['items'], strict=True):
        check_picture(sample, item)
        if 'input_ids' in item:  # the others were padded to model_max_length
            assert sample.input_ids.tolist() == item['input_ids']
            assert sample.labels.tolist() == item['labels']
    if not group['group_by_length']:
        return

    batch, theirs = PadCollator(pad_token_id=0)(samples), group['collated']
    assert batch['input_ids'].tolist() == theirs['input_ids']
    assert batch['labels'].tolist() == theirs['labels']
    lengths = torch.tensor([len(sample) for sample in samples])
    assert torch.equal(batch['attention_mask'].sum(1), lengths)
    # [3.8] theirs is ours but for the hidden '!'
    mask, ids = torch.tensor(theirs['attention_mask']).bool(), batch['input_ids']
    assert torch.equal(mask, batch['attention_mask'] & (ids != 0))
    hidden = int((mask != batch['attention_mask']).sum())
    assert (hidden > 0) == (group['tokenizer'] == 'qwen2' and group['annotation'] == 'ann_a.jsonl')


def test_one_padded_square_tile():
    """The same data without dynamic tiling: ``pad2square``."""
    group = GROUPS[0]
    encoder = encoder_of(group, type='PadSquare', tile_size=group['image_size'])
    samples = samples_of(encoder, 'ann_a.jsonl')
    for sample, item in zip(samples, MORE['not_dynamic_pad2square'], strict=True):
        check_picture(sample, item)
        assert sample.input_ids.tolist() == item['input_ids']
        assert sample.labels.tolist() == item['labels']


def test_lengths_are_known_without_opening_pictures_and_are_right():
    """[2.8]: the original's estimate is wrong for most samples; ours is the number of tokens."""
    group = GROUPS[0]
    encoder = encoder_of(group)
    file = GOLDEN / 'internvl_dataset' / 'ann_a.jsonl'
    dataset = ChatDataset(file, image_root=GOLDEN / 'internvl_pixels', format='internvl', encoder=encoder, min_side=1)
    for index in range(len(dataset)):
        record, sample = dataset.record(index), dataset[index]
        assert encoder.num_tokens(record.messages, sample.image_sizes) == len(sample)
    assert len(dataset) == 5
