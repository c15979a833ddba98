"""How the tiles of one picture make up a plane of tokens. One rule for what counts tokens and what cuts them.

An arranged picture (``AnyResTiler`` cuts it, ``AnyResMerge`` puts it together) is one tile with the whole picture, the
base, and a grid of ``columns x rows`` tiles on which the picture lies in the middle, keeping its proportions, with
black beside it or above and below. A grid of (0, 0) is the base alone. Each tile is a square of ``side x side`` tokens.

Rule and order are those of LLaVA-NeXT (llava/model/llava_arch.py of haotian-liu/LLaVA), and of LLaVA-OneVision, which
shrinks large planes (the same file of LLaVA-VL/LLaVA-NeXT).
"""

from __future__ import annotations

from math import isqrt, sqrt

from mmft.errors import ConfigError, ShapeError

__all__ = ['LLAVA_NEXT_GRIDS', 'MERGE_MODES', 'ONEVISION_GRIDS', 'arranged_tokens', 'kept_cells', 'merge_mode',
           'most_tokens', 'shrunk', 'token_side']  # fmt: skip

MERGE_MODES = {'spatial_unpad': {'unpad': True, 'newline': True}, 'spatial': {'unpad': False, 'newline': False}}
"""LLaVA's ``mm_patch_merge_type`` -> what ``AnyResMerge`` does; ``flat``, the third, is no merge at all."""

LLAVA_NEXT_GRIDS = ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3))
"""(columns, rows) of tiles that LLaVA-NeXT chooses from, in the order in which ties are decided."""

ONEVISION_GRIDS = tuple((columns, rows) for rows in range(1, 7) for columns in range(1, 7))
"""The same of LLaVA-OneVision, ``(1x1),...,(6x6)``."""


def merge_mode(unpad: bool, newline: bool) -> str:
    """The mode of an image processor that counts what ``AnyResMerge(unpad, newline)`` makes.

    Raises:
        ConfigError: none does, so no sample would have the right number of slots.

    >>> merge_mode(unpad=False, newline=False)
    'spatial'
    """
    given = {'unpad': unpad, 'newline': newline}
    for mode, rule in MERGE_MODES.items():
        if rule == given:
            return mode
    raise ConfigError(
        f'AnyResMerge: unpad={unpad!r} with newline={newline!r}, which no mode of AnyResTiler counts',
        expected=f'one of {list(MERGE_MODES.values())}',
        fix='set both True (LLaVA-NeXT) or both False',
    )


def token_side(tokens_per_tile: int) -> int:
    """The side of the square that the tokens of a tile form.

    Raises:
        ShapeError: they form none.

    >>> token_side(576)
    24
    """
    side = isqrt(tokens_per_tile)
    if side * side != tokens_per_tile or not side:
        raise ShapeError(
            f'{tokens_per_tile} tokens per tile do not form a square, so tiles cannot be put side by side',
            expected='a square number, such as the 576 of CLIP-L/336 with an MLP',
            fix="leave the merge out of the model and set AnyResTiler(mode='flat'); with a tower that keeps its class "
            "token set select_feature='patch'",
        )
    return side


def kept_cells(width: int, height: int, across: int, down: int) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of the cells that show picture, on a plane of ``across x down`` cells.

    Padding is taken off both sides alike, so one row (or column) of padding may stay; of a picture that is thinner than
    a cell nothing may be left, and the base has to speak for it.

    transformers keeps the same cells. The original computes in floats and, about once in 100,000 pictures, takes one
    row more off each side: 205 x 656 px on 24 x 48 cells.

    Args:
        width, height: of the picture, px.

    >>> kept_cells(640, 480, 48, 48)
    (0, 6, 48, 42)
    >>> kept_cells(10, 1000, 48, 48)
    (24, 0, 24, 48)
    """
    if width * down > across * height:
        padding = (down - height * across // width) // 2
        return 0, padding, across, down - padding
    padding = (across - width * down // height) // 2
    return padding, 0, across - padding, down


def shrunk(across: int, down: int, side: int, shrink_to: int | None) -> tuple[int, int]:
    """(columns, rows) of cells that a plane of ``across x down`` is shrunk to.

    LLaVA-OneVision's ``anyres_max_9``: a plane of more than 1.1 x 1.1 x 9 tiles is interpolated to about 9 tiles, in
    its proportions. Floats, as in the original and in transformers: they decide where a cell more is left.

    Args:
        side: of a tile, in cells.
        shrink_to: tiles; None leaves every plane as it is.

    >>> shrunk(108, 108, 27, 9), shrunk(81, 81, 27, 9)
    ((81, 81), (81, 81))
    """
    ratio = sqrt(across * down / (shrink_to * side**2)) if shrink_to else 1.0
    return (max(1, int(across // ratio)), max(1, int(down // ratio))) if ratio > 1.1 else (across, down)


def arranged_tokens(
    size: tuple[int, int],
    grid: tuple[int, int],
    tokens_per_tile: int,
    unpad: bool = True,
    newline: bool = True,
    shrink_to: int | None = None,
) -> int:
    """Language-model tokens of an arranged picture.

    Args:
        size: (width, height) of the picture, px.
        grid: its (columns, rows); (0, 0) for the base alone.
        unpad: leave out what shows padding only.
        newline: one more token at the end of each row (and behind a base that stands alone).
        shrink_to: see ``shrunk``.

    >>> arranged_tokens((640, 480), (2, 2), 576)
    2340
    >>> arranged_tokens((640, 480), (2, 2), 576, unpad=False, newline=False)
    2880
    >>> arranged_tokens((2000, 2000), (6, 6), 729, shrink_to=9)  # base, 81 x 81, 81 newlines
    7371
    """
    side, (columns, rows) = token_side(tokens_per_tile), grid
    if not columns * rows:
        return tokens_per_tile + newline
    left, top, right, bottom = (
        kept_cells(*size, columns * side, rows * side) if unpad else (0, 0, columns * side, rows * side)
    )
    across, down = shrunk(right - left, bottom - top, side, shrink_to)
    return tokens_per_tile + down * (across + newline)


def most_tokens(
    grid: tuple[int, int], tokens_per_tile: int, unpad: bool = True, newline: bool = True, shrink_to: int | None = None
) -> int:
    """The most tokens that ``arranged_tokens`` gives a picture on this grid, whatever its proportions.

    A picture that fills its grid has most, unless it is shrunk: with some padding it may be too small for that.

    >>> most_tokens((2, 2), 576), most_tokens((6, 2), 729, shrink_to=9), most_tokens((6, 6), 729, shrink_to=9)
    (2928, 8667, 8667)
    """
    side, (columns, rows) = token_side(tokens_per_tile), grid
    across, down = columns * side, rows * side
    kept = [(across, down)]
    if unpad and shrink_to:
        # A cell of padding is taken off both sides.
        kept += [(cells, down) for cells in range(across, 0, -2)] + [(across, cells) for cells in range(down, 0, -2)]
    counts = [r * (c + newline) for c, r in (shrunk(*cells, side, shrink_to) for cells in kept)]
    return tokens_per_tile + (max(counts) if columns * rows else newline)
