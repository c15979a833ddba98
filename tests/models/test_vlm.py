"""What the composite refuses: parts that do not fit, and inputs whose places and pictures are not as many."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from mmft.errors import ConfigError, ShapeError
from mmft.models import VLM, InternViT, PixelShuffleMLP

VISION = {
    'hidden_size': 32,
    'num_hidden_layers': 2,
    'num_attention_heads': 2,
    'intermediate_size': 48,
    'image_size': 56,
}
LLM = {'type': 'Llama', 'vocab_size': 64, 'hidden_size': 48, 'num_hidden_layers': 2, 'num_attention_heads': 4,
       'intermediate_size': 64}  # fmt: skip
SLOT = 60


@pytest.fixture(scope='module')
def model() -> VLM:
    torch.manual_seed(0)
    parts = {'vision': {'type': 'InternViT', **VISION}, 'projector': {'type': 'PixelShuffleMLP'}, 'llm': LLM}
    return VLM(**parts, image_token_id=SLOT).eval()


def prompt(slots: int) -> torch.Tensor:
    ids = torch.arange(1, 13)[None]
    ids[0, 2 : 2 + slots] = SLOT
    return ids


@pytest.mark.parametrize('mode', ['loss', 'tensor', 'predict'])
@pytest.mark.parametrize('pictures', [None, torch.zeros(0, 3, 56, 56)], ids=['none', 'no tile'])
def test_places_without_pictures(model: VLM, mode: str, pictures: torch.Tensor | None) -> None:
    with pytest.raises(ShapeError, match=r'4 image placeholders .*no pixel_values'):
        model(prompt(4), pixel_values=pictures, labels=prompt(4), mode=mode)


@pytest.mark.parametrize('slots', [0, 3, 5])
def test_more_or_fewer_places_than_features(model: VLM, slots: int) -> None:
    with pytest.raises(ShapeError, match=rf'{slots} image placeholders .* = 4 image features'):
        model(prompt(slots), pixel_values=torch.zeros(1, 3, 56, 56), mode='tensor')


def test_labels_of_another_length(model: VLM) -> None:
    with pytest.raises(ShapeError, match=r'labels of shape \(1, 5\)'):
        model(prompt(0), labels=prompt(0)[:, :5])


@pytest.mark.parametrize(
    ('widths', 'words'), [((16, 48), 'in_dim = 16, vision is 32'), ((32, 40), 'out_dim = 40, llm')]
)
def test_built_parts_that_do_not_fit(widths: tuple[int, int], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        VLM(vision=InternViT(**VISION), projector=PixelShuffleMLP(*widths), llm=LLM)


def test_modules_of_another_kind() -> None:
    with pytest.raises(ConfigError, match=r"(?s)vision = Linear.*VisionTower.*llm = 'Llama'.*LanguageModel"):
        VLM(vision=nn.Linear(2, 2), projector={'type': 'Linear'}, llm='Llama')


def test_the_placeholders_are_the_encoders_whatever_a_config_said():
    parts = {'vision': {'type': 'InternViT', **VISION}, 'projector': {'type': 'PixelShuffleMLP'}, 'llm': LLM}
    model = VLM(**parts, image_token_id=SLOT)
    model.take_image_token(None)
    assert model.image_token_id == SLOT
    model.take_image_token(SimpleNamespace(image_token_id=SLOT + 1))
    assert model.image_token_id == SLOT + 1
