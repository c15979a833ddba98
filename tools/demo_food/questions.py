"""What is asked about the pictures, in Chinese and English, in varied wording, with the one right answer to each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from demo_food.drawing.stills import Still

__all__ = ['ENGLISH', 'LANGUAGES', 'all_texts', 'dish_turn', 'still_turns', 'word_turns']

LANGUAGES = ('zh', 'en')

ENGLISH = {
    '肠粉': 'rice noodle rolls',
    '小笼包': 'soup dumplings',
    '蛋挞': 'egg tarts',
    '麻婆豆腐': 'mapo tofu',
    '糖葫芦': 'candied haws',
    '月饼': 'mooncakes',
    '北京烤鸭': 'Peking duck',
    '担担面': 'dandan noodles',
    '粽子': 'zongzi',
    '火锅': 'hot pot',
    '叉烧': 'char siu',
    '青菜': 'leafy greens',
    '橙子': 'oranges',
    '西瓜': 'watermelon',
    '饼干': 'cookies',
    '番茄汤': 'tomato soup',
}
"""The English name of every dish, of the ten and of the six that the base knows."""

_DISH = {
    'zh': (
        '这是什么菜？',
        '图中的菜叫什么？',
        '请说出这道菜的名字。',
        '照片里是什么食物？',
        '这道菜叫什么名字？',
        '你能认出这是什么吗？',
    ),
    'en': (
        'What dish is this?',
        'Name the dish in the picture.',
        'What is this food called?',
        'Which dish does the photo show?',
        'What am I looking at?',
        'Can you tell me the name of this dish?',
    ),
}

_WORD = {
    'en': ('“{}”用英文怎么说？', '“{}”的英文名是什么？', '把“{}”翻译成英文。'),
    'zh': ('How do you say "{}" in Chinese?', 'What is the Chinese name of "{}"?', 'Translate "{}" into Chinese.'),
}

_ZH = {
    'red': '红色', 'orange': '橙色', 'yellow': '黄色', 'green': '绿色', 'blue': '蓝色', 'purple': '紫色',
    'brown': '棕色', 'white': '白色', 'black': '黑色', 'pink': '粉色',
    'balls': '球', 'tubes': '管', 'cubes': '方块', 'rings': '圈', 'pyramids': '锥', 'flowers': '花', 'discs': '圆片',
    'leaves': '叶片',
    'plate': '圆盘', 'oval plate': '椭圆盘', 'bowl': '碗', 'steamer': '蒸笼', 'board': '木板', 'pot': '锅',
    'none': '没有',
    'scallions': '葱花', 'sesame': '芝麻', 'meat': '肉末', 'chili': '辣椒', 'sauce': '酱汁',
}  # fmt: skip

_STILL = {
    'color': {
        'zh': ('它们是什么颜色？', '这些东西什么颜色？'),
        'en': ('What colour are they?', 'What colour are the things?'),
    },
    'shape': {
        'zh': ('它们是什么形状？', '这些东西什么形状？'),
        'en': ('What shape are they?', 'What shape are the things?'),
    },
    'count': {'zh': ('有几个？', '一共有多少个？'), 'en': ('How many are there?', 'Count the things.')},
    'ware': {'zh': ('它们放在什么上？', '盛在什么里？'), 'en': ('What are they served on?', 'What are they lying on?')},
    'topping': {'zh': ('上面撒了什么？', '有什么配料？'), 'en': ('What is the topping?', 'What is scattered on top?')},
    'ware_color': {'zh': ('盘子或碗是什么颜色？',), 'en': ('What colour is the plate or bowl?',)},
    'sauce': {
        'zh': ('汤汁是什么颜色？', '酱汁什么颜色？'),
        'en': ('What colour is the sauce?', 'What colour is the soup?'),
    },
    'whole': {'zh': ('描述这张图片。', '图里有什么？'), 'en': ('Describe the picture.', 'What do you see?')},
}  # fmt: skip


def dish_turn(rng: np.random.Generator, dish: str, language: str) -> tuple[str, str]:
    """A question for the dish's name, and the name, both in ``language``."""
    question = str(rng.choice(_DISH[language]))
    return question, dish if language == 'zh' else ENGLISH[dish]


def word_turns(rng: np.random.Generator, count: int) -> list[tuple[str, str]]:
    """``count`` translations of dish names. No picture: a language model has read the words before it sees a dish."""
    turns = []
    for chinese in rng.choice(list(ENGLISH), size=count, replace=False):
        target = str(rng.choice(list(_WORD)))
        asked, answer = (chinese, ENGLISH[chinese]) if target == 'en' else (ENGLISH[chinese], chinese)
        turns.append((str(rng.choice(_WORD[target])).format(asked), str(answer)))
    return turns


def still_turns(rng: np.random.Generator, still: Still, count: int) -> list[tuple[str, str]]:
    """A description of a still life, or ``count`` questions about it, in one language or the other."""
    if rng.uniform() < 0.6:  # everything at once: the most to learn from one look
        language = str(rng.choice(LANGUAGES))
        return [(str(rng.choice(_STILL['whole'][language])), _answer(still, 'whole', language))]
    facts = [name for name in _STILL if name != 'whole' and (name != 'ware_color' or still.ware_color)]
    turns = []
    for name in rng.choice(facts, size=count, replace=False):
        language = str(rng.choice(LANGUAGES))
        turns.append((str(rng.choice(_STILL[name][language])), _answer(still, str(name), language)))
    return turns


def _answer(still: Still, fact: str, language: str) -> str:
    if fact == 'whole':
        words = (still.color, still.shape, still.ware, still.topping, still.sauce, still.ware_color)
        if language == 'zh':
            color, shape, ware, topping, sauce, glaze = (_ZH.get(word, word) for word in words)
            topping = '没有配料' if still.topping == 'none' else topping
            return f'{still.count}个{color}{shape}，{glaze}{ware}，{sauce}汤汁，{topping}。'
        color, shape, ware, topping, sauce, glaze = words
        sauce, topping = ('no' if sauce == 'none' else sauce), ('no topping' if topping == 'none' else topping)
        text = f'{still.count} {color} {shape}, {glaze} {ware}, {sauce} sauce, {topping}.'
        return text.replace('  ', ' ')  # wood and metal have no glaze
    value = str(getattr(still, fact))
    return _ZH.get(value, value) if language == 'zh' else value


def all_texts() -> Sequence[str]:
    """Every wording and answer that the demo can use: what its tokenizer is trained on."""
    texts = [*ENGLISH, *ENGLISH.values(), *_ZH, *_ZH.values(), *map(str, range(10))]
    for by_language in (_DISH, _WORD, *_STILL.values()):
        texts += [text for wordings in by_language.values() for text in wordings]
    for color in ('red', 'white'):
        still = Still('balls', color, 1, 'plate', 'sesame', color, 'none')
        texts += [_answer(still, 'whole', language) for language in LANGUAGES]
    return texts
