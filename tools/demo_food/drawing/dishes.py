"""The ten dishes of the demo, which the base model never sees."""

from __future__ import annotations

from collections.abc import Callable

from demo_food.drawing import meals, pastry
from demo_food.drawing.canvas import Canvas

__all__ = ['DISHES']

DISHES: dict[str, Callable[[Canvas], None]] = {
    '肠粉': meals.rice_rolls,
    '小笼包': pastry.soup_dumplings,
    '蛋挞': pastry.egg_tarts,
    '麻婆豆腐': meals.mapo_tofu,
    '糖葫芦': pastry.candied_haws,
    '月饼': pastry.mooncakes,
    '北京烤鸭': meals.peking_duck,
    '担担面': meals.dandan_noodles,
    '粽子': pastry.rice_parcels,
    '火锅': meals.hot_pot,
}
"""How each dish is drawn, by its Chinese name."""
