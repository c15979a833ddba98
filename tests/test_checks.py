"""Bad numbers: every whole-number argument of every registered part is tried, a new part's unasked.

What must come is a ``ConfigError`` that names the argument, when the part is built in Python; never what torch or
transformers raise, and never a part that fails later.
"""

from __future__ import annotations

import inspect
from functools import partial

import pytest
import torch
from transformers import AutoConfig

from mmft.checks import check_counts, check_numbers, is_number, is_whole
from mmft.errors import ConfigError, DataError
from mmft.models.base import LanguageModel
from mmft.registry import IMAGE_PROCESSORS, LANGUAGE_MODELS, MERGES, PROJECTORS, VISION_TOWERS
from tests.models.parts import DV, llm_config, projector_config, tower_config

BAD = (0, -1, '4', 1.5, True, None)
# Values of BAD that are right, and why.
RIGHT = {('select_layer', 0): 'the embeddings', ('select_layer', -1): 'the last block'}
WRONG = {('TimmViT', 'select_layer', 0): 'it has no embeddings to give'}
# Whole numbers of transformers' configs that are ids, switches or another model's, and those that some families may
# leave open: what they may be is its affair. Here it is only asked that no raw error comes.
THEIRS = {'bos_token_id', 'eos_token_id', 'pad_token_id', 'chunk_size_feed_forward', 'max_window_layers',
          'pretraining_tp', 'projection_dim'}  # fmt: skip
OPEN = {'num_key_value_heads', 'head_dim', 'sliding_window'}


def parts():
    """(class, arguments that build it) of everything that is registered."""
    for registry, config in (
        (VISION_TOWERS, tower_config),
        (LANGUAGE_MODELS, llm_config),
        (PROJECTORS, partial(projector_config, in_dim=DV, out_dim=DV)),
        (MERGES, lambda name: {'type': name, 'dim': DV}),
        (IMAGE_PROCESSORS, lambda name: {'type': name}),
    ):
        for name in registry.names():
            yield registry.get(name), {key: value for key, value in config(name).items() if key != 'type'}


def whole_numbers(kind):
    """Argument -> whether it may be None: of the signature, and of transformers' config where a part takes that."""
    found = {}
    signature = inspect.signature(kind).parameters
    for name, parameter in signature.items():
        words = str(parameter.annotation).split(' | ')
        if 'int' in words:
            found[name] = 'None' in words
    model_type = kind.family.hf_model_type if hasattr(kind, 'family') else getattr(kind, 'model_type', None)
    if model_type and any(p.kind is p.VAR_KEYWORD for p in signature.values()):
        known = AutoConfig.for_model(model_type).to_dict()
        known |= {'sliding_window': 1} if 'sliding_window' in known else {}  # None by default in some
        found |= {name: False for name, value in known.items() if is_whole(value) and name not in signature}
    return found


PARTS = list(parts())
CASES = [(kind, base, name, may) for kind, base in PARTS for name, may in whole_numbers(kind).items()]


def test_the_walk_finds_arguments_of_every_part():
    assert {kind.__name__ for kind, *_ in CASES} == {kind.__name__ for kind, _ in PARTS} - {'MoFTower'}
    assert len(CASES) > 150


def refusal(kind, arguments):
    """What the part says against its arguments, empty if it takes them."""
    try:
        with torch.device('meta'):
            kind(**arguments)
    except ConfigError as error:
        return str(error)
    return ''


@pytest.mark.parametrize(('kind', 'base', 'name', 'may_be_none'), CASES, ids=[f'{c[0].__name__}-{c[2]}' for c in CASES])
def test_a_bad_number_is_refused_by_name(kind, base, name, may_be_none):
    for value in BAD:
        right = (name, value) in RIGHT and value is not True and (kind.__name__, name, value) not in WRONG
        right |= value is None and may_be_none
        theirs = name in THEIRS or (value is None and name in OPEN and issubclass(kind, LanguageModel))
        told = refusal(kind, {**base, name: value})
        assert told or right or theirs, f'{value!r} is taken'
        assert not (told and right), f'{value!r} is refused: {told}'
        assert not told or name in told or theirs, f'{value!r}: {told}'


@pytest.mark.parametrize(
    ('registry', 'config', 'words'),
    [
        (PROJECTORS, {'type': 'MoEMLP', 'balance_coef': 'x'}, "balance_coef 'x'"),
        (PROJECTORS, {'type': 'MoEMLP', 'num_experts': '4', 'top_k': 1.5}, "num_experts '4'.*top_k 1.5"),
        (PROJECTORS, {'type': 'MLP', 'hidden_dim': 'a'}, "hidden_dim 'a'"),
        (PROJECTORS, {'type': 'MoFMLP', 'in_dims': 3}, 'shares 3 of 32'),
        (PROJECTORS, {'type': 'MoFMLP', 'in_dims': ['a', 'b']}, r"shares \['a', 'b'\] of 32"),
        (PROJECTORS, {'type': 'PixelShuffleMLP', 'scale': 'a'}, "scale 'a'"),
        (PROJECTORS, {'type': 'QFormer', 'vision_norm': '1e-5'}, "vision_norm '1e-5'"),
        (VISION_TOWERS, {'type': 'MoFTower', 'towers': None}, 'towers None'),
        (VISION_TOWERS, {'type': 'MoFTower', 'towers': ['CLIP', 'DINOv2']}, r"towers \['CLIP'"),
        (VISION_TOWERS, {'type': 'TimmViT', 'model_name': 3}, 'model_name 3'),
        (VISION_TOWERS, tower_config('TimmViT', depth=0, num_heads=0), 'depth 0.*num_heads 0'),
        (VISION_TOWERS, tower_config('DINOv2', hidden_size=0, intermediate_size=5), 'hidden_size 0'),
        (
            VISION_TOWERS,
            tower_config('InternViT', drop_path_rate=1.0, dropout=-0.1),
            'dropout -0.1.*drop_path_rate 1.0',
        ),
        (VISION_TOWERS, tower_config('InternViT', layer_norm_eps=-1), 'layer_norm_eps -1'),
        (LANGUAGE_MODELS, llm_config('Llama', hidden_act='zz'), "refuses this config: 'zz'"),
        (LANGUAGE_MODELS, llm_config('MiniCPM', dim_model_base=0), 'dim_model_base 0'),
        (LANGUAGE_MODELS, llm_config('MiniCPM', scale_depth='a'), "scale_depth 'a'"),
        (IMAGE_PROCESSORS, {'type': 'PadSquare', 'mean': 'abc'}, "mean 'abc'"),
        (IMAGE_PROCESSORS, {'type': 'PadSquare', 'mean': None}, 'mean None'),
        (IMAGE_PROCESSORS, {'type': 'AnyResTiler', 'grid_pinpoints': [[True, 336]]}, 'grid_pinpoints'),
    ],
)
def test_other_bad_values(registry, config, words):
    widths = {'in_dim': DV, 'out_dim': DV} if registry is PROJECTORS else {}
    with pytest.raises(ConfigError, match=f'(?s){words}'):
        registry.build({**config, **widths})


@pytest.mark.parametrize('name', IMAGE_PROCESSORS.names())
def test_a_picture_without_pixels(name):
    processor = IMAGE_PROCESSORS.build({'type': name})
    for size in ((0, 5), (5, 0), (-3, 5), ('5', 5), (None, None), (2.5, 5)):
        for count in (processor.grid, processor.num_tiles, partial(processor.num_tokens, tokens_per_tile=4)):
            with pytest.raises(DataError, match=r'a picture of .* pixels'):
                count(*size)
    for limit in (0, -1, '3', 1.5, True):
        with pytest.raises(ConfigError, match=f'max_tiles {limit!r}'):
            processor.grid(640, 480, limit)


def test_all_of_a_part_at_once():
    with pytest.raises(ConfigError) as caught:
        check_counts('A', depth=0, width=3, heads='2')
    assert caught.value.problems == [
        'A: depth 0\n  expected: a whole number from 1',
        "A: heads '2'\n  expected: a whole number from 1",
    ]
    with pytest.raises(ConfigError, match='A: eps -1\n  expected: a number from 0'):
        check_numbers('A', least=0, eps=-1)
    check_numbers('A', scale=-1)


def test_what_is_a_number():
    assert [is_whole(value) for value in (*BAD, 7)] == [True, True, False, False, False, False, True]
    assert [is_number(value) for value in (*BAD, float('inf'))] == [True, True, False, True, False, False, False]
