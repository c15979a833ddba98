"""How the tiles of one picture make up a plane of tokens. Integers only: what counts tokens and what cuts them agree.

An arranged picture (``AnyResTiler`` cuts it, ``AnyResMerge`` puts it together) is one tile with the whole picture, the
base, and a grid of ``columns x rows`` tiles on which the picture lies in the middle, keeping its proportions, with
black beside it or above and below. A grid of (0, 0) is the base alone. Each tile is a square of ``side x side`` tokens.

Rule and order are those of LLaVA-NeXT (llava/model/llava_arch.py of haotian-liu/LLaVA).
"""

from __future__ import annotations

from math import isqrt

from mmft.errors import ConfigError, ShapeError

__all__ = ['LLAVA_NEXT_GRIDS', 'MERGE_MODES', 'arranged_tokens', 'kept_cells', 'merge_mode', 'token_side']

MERGE_MODES = {'spatial_unpad': {'unpad': True, 'newline': True}, 'spatial': {'unpad': False, 'newline': False}}
"""LLaVA's ``mm_patch_merge_type`` -> what ``AnyResMerge`` does; ``flat``, the third, is no merge at all."""

LLAVA_NEXT_GRIDS = ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3))
"""(columns, rows) of tiles that LLaVA-NeXT chooses from, in the order in which ties are decided."""


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


def arranged_tokens(
    size: tuple[int, int], grid: tuple[int, int], tokens_per_tile: int, unpad: bool = True, newline: bool = True
) -> int:
    """Language-model tokens of an arranged picture.

    Args:
        size: (width, height) of the picture, px.
        grid: its (columns, rows); (0, 0) for the base alone.
        unpad: leave out what shows padding only.
        newline: one more token at the end of each row (and behind a base that stands alone).

    >>> arranged_tokens((640, 480), (2, 2), 576)
    2340
    >>> arranged_tokens((640, 480), (2, 2), 576, unpad=False, newline=False)
    2880
    """
    side, (columns, rows) = token_side(tokens_per_tile), grid
    if not columns * rows:
        return tokens_per_tile + newline
    left, top, right, bottom = (
        kept_cells(*size, columns * side, rows * side) if unpad else (0, 0, columns * side, rows * side)
    )
    return tokens_per_tile + (bottom - top) * (right - left + newline)
