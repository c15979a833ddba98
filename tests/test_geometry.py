"""Which cells of a plane of tokens show picture: the original's numbers, transformers' code, and the plain meaning."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers.models.llava_next.modeling_llava_next import unpad_image

from mmft.errors import ShapeError
from mmft.geometry import arranged_tokens, kept_cells, token_side
from tests.helpers import golden_json

ROWS = golden_json('llava_anyres', 'unpad_image.json')['rows']


def test_cells_of_the_original():
    assert len(ROWS) > 250
    for down, across, width, height, kept_down, kept_across, first in ROWS:
        left, top, right, bottom = kept_cells(width, height, across, down)
        assert (bottom - top, right - left) == (kept_down, kept_across), (down, across, width, height)
        assert first == (top * across + left if kept_down * kept_across else -1)


def test_cells_of_transformers():
    rng = np.random.default_rng(0)
    for _ in range(3000):
        across, down, width, height = (int(value) for value in rng.integers(1, (80, 80, 3000, 3000)))
        cells = torch.arange(across * down).view(1, down, across)
        left, top, right, bottom = kept_cells(width, height, across, down)
        want = unpad_image(cells, (height, width))
        assert torch.equal(cells[:, top:bottom, left:right], want), (across, down, width, height)


def test_where_the_original_loses_a_row_to_rounding():
    # Bug of the original: int(205 * (48 / 656)) is int(14.999...) = 14, so it keeps columns 5 to 18 of 24. The picture
    # fills 15 columns; transformers rounds to 7 digits first and keeps what we keep.
    assert int(205 * (48 / 656)) == 14
    assert kept_cells(205, 656, 24, 48) == (4, 0, 20, 48)


def test_what_is_kept_is_at_most_a_row_more_than_the_picture():
    rng = np.random.default_rng(1)
    for _ in range(500):
        across, down, width, height = (int(value) for value in rng.integers(1, (60, 60, 900, 900)))
        left, top, right, bottom = kept_cells(width, height, across, down)
        assert 0 <= left <= right <= across
        assert 0 <= top <= bottom <= down
        assert (left == 0 and right == across) or (top == 0 and bottom == down)
        rows = min(down, across * height / width)
        columns = min(across, down * width / height)
        assert -1 < bottom - top - rows < 2
        assert -1 < right - left - columns < 2


def test_tokens():
    assert arranged_tokens((42, 42), (0, 0), 9) == 10
    assert arranged_tokens((42, 42), (0, 0), 9, newline=False) == 9
    assert arranged_tokens((42, 42), (2, 2), 9) == 9 + 6 * 7
    assert arranged_tokens((42, 42), (2, 2), 9, newline=False) == 9 + 6 * 6
    # Nothing is left of so thin a picture but the ends of its rows, as in the original.
    assert arranged_tokens((10, 1000), (1, 2), 576) == 576 + 48
    with pytest.raises(ShapeError, match=r"(?s)577 tokens per tile.*select_feature='patch'"):
        arranged_tokens((42, 42), (2, 2), 577)
    assert [token_side(n) for n in (1, 4, 729)] == [1, 2, 27]
