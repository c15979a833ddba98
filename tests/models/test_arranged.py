"""Arranged tiles from picture to answer: encoder, collators, model, validation and chat count and order alike."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from mmft.data import ChatEncoder
from mmft.data.batches.collate import PackCollator, PadCollator
from mmft.data.text.special_tokens import add_special_tokens
from mmft.data.text.tokenizers import load_tokenizer
from mmft.errors import ShapeError
from mmft.evaluation.answers import answer_samples
from mmft.models import VLM
from tests.helpers import GOLDEN

SIDE = 28


def picture(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8))


def made(mode: str, **tiler) -> tuple[VLM, ChatEncoder]:
    tokenizer = load_tokenizer(GOLDEN / 'tokenizers' / 'internlm2')
    add_special_tokens(tokenizer)
    processor = {'type': 'AnyResTiler', 'tile_size': SIDE, 'mode': mode, **tiler}
    encoder = ChatEncoder(tokenizer, 'internlm2-chat', processor, tokens_per_tile=16)
    merge = None if mode == 'flat' else {'type': 'AnyResMerge', 'unpad': 'un' in mode, 'newline': 'un' in mode}
    model = VLM(
        {'type': 'InternViT', 'hidden_size': 16, 'num_hidden_layers': 1, 'num_attention_heads': 2,
         'intermediate_size': 16, 'image_size': SIDE, 'patch_size': 7},
        {'type': 'MLP'},
        {'type': 'Llama', 'vocab_size': len(tokenizer), 'hidden_size': 16, 'intermediate_size': 24,
         'num_hidden_layers': 1, 'num_attention_heads': 2, 'num_key_value_heads': 1, 'pad_token_id': 0},
        image_token_id=encoder.image_token_id,
        merge=merge,
    )  # fmt: skip
    return model.eval(), encoder


def talk(pictures: int) -> list[dict[str, str]]:
    return [
        {'role': 'user', 'content': '<image>\n' * pictures + 'What is it?'},
        {'role': 'assistant', 'content': 'Rice'},
    ]


PICTURES = [[picture(90, 40)], [], [picture(30, 80), picture(64, 60)]]


@pytest.fixture(scope='module', params=['spatial_unpad', 'spatial', 'flat'])
def case(request):
    model, encoder = made(request.param)
    return model, encoder, [encoder(talk(len(images)), images) for images in PICTURES]


def test_samples_say_how_their_tiles_lie(case):
    _, encoder, samples = case
    tiler = encoder.image_processor
    for sample, images in zip(samples, PICTURES, strict=True):
        sizes = [image.size for image in images]
        assert sample.image_sizes == sizes
        assert sample.image_grids == ([tiler.grid(*size) for size in sizes] if tiler.arranges else [])
        assert sample.num_tiles == [tiler.num_tiles(*size) for size in sizes]
        slots = int((sample.input_ids == encoder.image_token_id).sum())
        assert slots == sum(tiler.num_tokens(*size, 16) for size in sizes)
        assert encoder.num_tokens(talk(len(images)), sizes) == len(sample)


@pytest.mark.parametrize('collator', [PadCollator, PackCollator])
def test_a_batch_is_its_samples(case, collator):
    model, encoder, samples = case
    batch = collator()(samples)
    keys = {'image_sizes', 'image_grids'}
    if encoder.image_processor.arranges:
        assert batch['image_sizes'].tolist() == [[90, 40], [30, 80], [64, 60]]
        assert batch['image_grids'].dtype == torch.int64
        assert batch['image_grids'].tolist() == [list(grid) for sample in samples for grid in sample.image_grids]
    else:
        assert not keys & batch.keys()
    assert not keys & collator()([samples[1]]).keys()
    assert [meta['num_tiles'] for meta in batch.pop('meta')] == [sample.num_tiles for sample in samples]
    with torch.no_grad():
        together = model(**model.data_preprocessor(batch), mode='tensor')
        mask = batch['attention_mask']
        together = together[0] if mask is None else together[mask]
        apart = []
        for sample in samples:
            alone = collator()([sample])
            alone.pop('meta')
            apart.append(model(**model.data_preprocessor(alone), mode='tensor')[0])
    torch.testing.assert_close(together, torch.cat(apart), atol=1e-5, rtol=1e-5)


def test_chat_and_validation(case):
    model, encoder, samples = case
    torch.manual_seed(5)
    answers = answer_samples(model, encoder, samples, max_new_tokens=5)
    for answer, images in zip(answers, PICTURES, strict=True):
        assert answer.answer == model.chat(encoder, 'What is it?', images, max_new_tokens=5)
        assert answer.reference == 'Rice'


def test_pictures_of_one_sample_share_their_tiles():
    _, encoder = made('spatial_unpad', max_tiles=4)
    one, two, many = (encoder(talk(n), [picture(64, 60)] * n) for n in (1, 2, 5))
    assert one.image_grids == [(2, 2)]
    assert two.image_grids == [(2, 1), (2, 1)]
    assert many.image_grids == [(0, 0)] * 5  # each is left with less than the smallest grid
    assert many.num_tiles == [1] * 5


def test_one_kind_of_tiles_in_a_batch(case):
    _, encoder, samples = case
    _, other = made('flat' if encoder.image_processor.arranges else 'spatial')
    stranger = other(talk(1), PICTURES[0])
    stranger.meta.update(file='b.jsonl', line=2)
    with pytest.raises(ShapeError, match=r'in only one of b\.jsonl:2 and a sample'):
        PadCollator()([samples[0], stranger])


def test_an_encoder_of_another_model(case):
    model, encoder, _ = case
    mode = 'flat' if encoder.image_processor.arranges else 'spatial'
    _, other = made(mode)
    with pytest.raises(ShapeError, match='both or neither'):
        model.chat(other, 'What is it?', PICTURES[0])


@pytest.mark.parametrize('collator', [PadCollator, PackCollator])
@pytest.mark.parametrize('together', [False, True])
def test_as_many_placeholders_in_all_but_not_for_each_picture(collator: type, together: bool) -> None:
    """48 + 64 tokens of ``spatial`` are 36 + 76 of ``spatial_unpad``."""
    pinpoints = [(28, 56), (56, 28), (56, 56), (84, 28), (28, 84)]
    model, _ = made('spatial_unpad', grid_pinpoints=pinpoints)
    _, encoder = made('spatial', grid_pinpoints=pinpoints)
    encoder.image_start = encoder.image_end = ''  # the two stand side by side, as one run of placeholders
    one, other = picture(20, 20), picture(20, 62)
    both = [{**turn, 'content': turn['content'].replace('\n', '')} for turn in talk(2)]
    asked = [(both, [one, other])] if together else [(talk(1), [one]), (talk(1), [other])]
    batch = collator()([encoder(turns, images) for turns, images in asked])
    batch.pop('meta')
    with pytest.raises(ShapeError, match='48 image placeholders for picture 1 of the batch, which has 36 features'):
        model(**model.data_preprocessor(batch))
    if not together:  # nobody counted them: the runs still say so
        del batch['image_slots']
        with pytest.raises(ShapeError, match=r'a run of image placeholders ends after 12 of the 76.*112 in all are as'):
            model(**model.data_preprocessor(batch))


def test_a_tile_that_another_sample_took() -> None:
    """Nor does one sample's placeholder too many make up for another's that is missing."""
    model, encoder = made('flat')
    batch = PadCollator()([encoder(talk(1), [picture(20, 20)]) for _ in range(2)])
    batch.pop('meta')
    ids = batch['input_ids']
    first, last = (int(row.nonzero()[0 if n else -1]) for n, row in enumerate(ids == encoder.image_token_id))
    ids[0, first + 1], ids[1, last] = encoder.image_token_id, 5
    with pytest.raises(ShapeError, match='a run of image placeholders ends after 1 of the 16 features of a tile'):
        model(**model.data_preprocessor(batch))
