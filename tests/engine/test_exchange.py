"""What the pictures are worth: samples with each other's pictures, as the encoder would have made them."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mmft.data.encoder import ChatEncoder
from mmft.engine.exchange import Exchange, Pair, exchange_pictures, with_pictures_of
from mmft.engine.validation import ValLoop
from mmft.structures import Sample
from tests.engine.tiny import TOKENIZER
from tests.engine.toy import ToyData, toy_loader, toy_runner

TILER = {'type': 'DynamicTiler', 'tile_size': 28, 'min_tiles': 1, 'max_tiles': 4}
ANYRES = {'type': 'AnyResTiler', 'tile_size': 28, 'mode': 'spatial_unpad', 'grid_pinpoints': [(28, 56), (56, 28)]}


def encoder(processor: dict, adjacent: bool = False) -> ChatEncoder:
    ends = {'image_start': '', 'image_end': ''} if adjacent else {}
    return ChatEncoder(str(TOKENIZER), 'internlm2-chat', processor, tokens_per_tile=4, add_tokens=True, **ends)


def picture(width: int, height: int, seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(256, size=(height, width, 3), dtype=np.uint8))


def turns(question: str, answer: str) -> list[dict]:
    return [{'role': 'user', 'content': question}, {'role': 'assistant', 'content': answer}]


@pytest.mark.parametrize(('processor', 'adjacent'), [(TILER, False), (TILER, True), (ANYRES, True)])
def test_exchanged_is_encoded_with_the_other_pictures(processor: dict, adjacent: bool) -> None:
    encode = encoder(processor, adjacent)
    square, wide, tall = picture(30, 30, 0), picture(90, 30, 1), picture(30, 95, 2)
    one = encode(turns('<image>\nWhat is it?', 'a dish'), [square])
    two = encode(turns('<image><image> Which?', 'the first one'), [wide, tall])
    for sample, other, want in (
        (one, two, encode(turns('<image>\nWhat is it?', 'a dish'), [wide])),
        (two, one, encode(turns('<image><image> Which?', 'the first one'), [square, square])),
    ):
        got = with_pictures_of(sample, other, encode.image_token_id)
        if processor is TILER and sample is not two:
            # Each of two pictures has half of the tiles: only what is alone can be compared with the encoder's own.
            other = encode(turns('<image> Which?', 'the first one'), [wide])
            got = with_pictures_of(sample, other, encode.image_token_id)
        elif processor is TILER:
            assert got.num_tiles == [1, 1]
        for field in fields(Sample):
            value, expected = getattr(got, field.name), getattr(want, field.name)
            assert torch.equal(value, expected) if isinstance(value, torch.Tensor) else value == expected, field.name


def test_pictures_of_another_kind_and_with_another_answer_are_preferred() -> None:
    data = ToyData(6)
    samples = [data[i] for i in range(6)]
    same = [replace(samples[1], pixel_values=samples[0].pixel_values), replace(samples[0])]
    pairs = exchange_pictures([samples[0], *same, samples[3], samples[4]])
    assert torch.equal(pairs[0][1].pixel_values, samples[3].pixel_values), 'not its own once more'
    relabelled = replace(samples[3], labels=samples[0].labels, input_ids=samples[0].input_ids)
    pairs = exchange_pictures([samples[0], relabelled, samples[4]])
    assert torch.equal(pairs[0][1].pixel_values, samples[4].pixel_values), 'of another answer'
    assert torch.equal(pairs[0][1].input_ids, samples[0].input_ids)
    assert exchange_pictures([samples[0], samples[0]]) == []


def test_the_verdict() -> None:
    def verdict(gains: list[float], own: float = 10.0) -> bool:
        return Exchange([Pair(own, own + gain, 2.0) for gain in gains]).nothing

    assert verdict([0.0] * 8)
    assert verdict([0.1] * 8), 'a hundredth of the loss, however sure'
    assert verdict([3.0, -3.0, 2.0, -1.0, 4.0, -3.0, 1.0, -2.0]), 'noise'
    assert not verdict([2.0, 1.0, 3.0, 2.5, 1.5, 2.0, 0.5, 1.0])
    assert not verdict([0.0] * 7), 'too few to say'
    assert Exchange([Pair(10.0, 11.0, 2.0), Pair(2.0, 5.0, 2.0)]).exchanged == 4.0


def test_a_model_that_ignores_its_pictures_is_found(tmp_path: Path) -> None:
    runner = toy_runner(tmp_path)
    said: list[str] = []
    runner.logger.warning = said.append
    loop = ValLoop(runner, toy_loader(12, training=False))
    runner._val_loop = loop
    runner.train_loop.val_interval = 0
    metrics = loop.run()
    assert metrics['loss_own'] == pytest.approx(metrics['loss'], rel=1e-5)
    assert metrics['loss_exchanged'] != metrics['loss_own']
    answers = sum(len(loop.dataloader.dataset[i].labels[-1:]) for i in range(12))
    tokens = sum(int((loop.dataloader.dataset[i].labels[1:] >= 0).sum()) for i in range(12))
    assert metrics['nats_per_answer'] == pytest.approx(metrics['loss'] * tokens / answers, rel=1e-5)
    said.clear()
    runner.model.projector[1].weight.data.zero_()
    runner.model.llm['head'].weight.data.zero_()
    metrics = loop.run()
    assert metrics['loss_exchanged'] == metrics['loss_own']
    assert 'the pictures change nothing' in said[1]
    assert said[0].startswith('all 12 answers of the validation are the same: ')
    loop.exchanged_samples = 0
    assert 'loss_exchanged' not in loop.run()
