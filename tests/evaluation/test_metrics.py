"""Metrics against rules worked out by hand, intervals against theory."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest

from mmft.errors import ConfigError, DataError
from mmft.evaluation.bootstrap import interval
from mmft.evaluation.metrics import anls, build_metric, contains, exact_match
from mmft.evaluation.vqa import normalize_vqa, vqa_accuracy
from mmft.registry import METRICS


@pytest.mark.parametrize('name', METRICS.names())
def test_every_metric_is_1_for_the_reference_and_0_for_nonsense(name):
    metric, vqa = build_metric(name), name in ('vqa', 'vqa_accuracy')
    assert metric('Egg tarts', ['egg tarts', 'tarts']) == (0.5 / 3 if vqa else 1.0)
    assert metric('Egg tarts', ['egg tarts']) == (0.0 if vqa else 1.0)  # people agree: nothing is normalised
    assert metric('egg tarts', ['egg tarts']) == 1.0
    assert metric('zzzzzzzzzzzzzzzzzzz', ['egg tarts']) == 0.0
    assert metric('', ['egg tarts']) == 0.0


def test_an_unknown_metric_is_answered_with_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'exact_match'"):
        build_metric('exact-match')


def test_exact_match_is_that_of_validation():
    assert exact_match(' Ｒice  noodle rolls。', ['rice noodle rolls']) == 1.0
    assert exact_match('rolls', ['rice noodle rolls', 'rolls']) == 1.0


@pytest.mark.parametrize(
    ('answer', 'reference', 'right'),
    [
        ('I see a cat.', 'cat', 1), ('concatenate', 'cat', 0), ('这道菜是肠粉', '肠粉', 1), ('C++ code', 'c++', 1),
        ('a 12', '1', 0), ('anything', '', 0),
    ],
)  # fmt: skip
def test_contains_takes_whole_words(answer, reference, right):
    assert contains(answer, [reference]) == right


@pytest.mark.parametrize('agreeing', range(11))
def test_vqa_accuracy_by_the_number_who_agree(agreeing):
    # Leave one of ten out and average: min(k/3, 1) over the 10-k others, min((k-1)/3, 1) over the k themselves.
    want = ((10 - agreeing) * min(agreeing / 3, 1) + agreeing * min((agreeing - 1) / 3, 1)) / 10 if agreeing else 0
    people = ['yes'] * agreeing + [f'other {n}' for n in range(10 - agreeing)]
    assert vqa_accuracy('yes', people) == pytest.approx(want)
    assert [round(vqa_accuracy('yes', ['yes'] * k + ['no'] * (10 - k)), 2) for k in (1, 2, 3, 4)] == [0.3, 0.6, 0.9, 1]


def test_vqa_normalises_only_where_people_disagree():
    assert vqa_accuracy('2', ['two'] * 10) == 0.0
    assert vqa_accuracy('2', ['two'] * 9 + ['one']) == 1.0
    assert vqa_accuracy('net\n', ['net'] * 10) == 1.0
    assert vqa_accuracy('x', []) == 0.0


@pytest.mark.parametrize(
    ('text', 'want'),
    [
        ('A cat, a dog', 'cat dog'),
        ('black-white', 'black white'),
        ('black -white', 'black white'),  # with a space beside it, a hyphen goes without leaving one
        ('t - shirt', 't shirt'),
        ('1,000 (m)', '1000 m'),
        ('1,000-m', '1000m'),  # a comma between digits takes all punctuation away without a space
        ('3.5', '3.5'),
        ('no. 3', 'no 3'),
        ('.5', '.5'),
        ('shouldnt ask somebody\'d', "shouldn't ask somebodyd"),
        ("couldn'tve couldnt've", "couldn't've couldn't've"),
        ('none', '0'),
        ('. ' * 34, '. .'),  # at most 32
    ],
)  # fmt: skip
def test_vqa_normalisation_with_its_oddities(text, want):
    assert normalize_vqa(text) == want


def test_anls_against_the_recursion():
    @functools.cache
    def distance(a: str, b: str) -> int:
        if not a or not b:
            return len(a) + len(b)
        return min(distance(a[1:], b) + 1, distance(a, b[1:]) + 1, distance(a[1:], b[1:]) + (a[0] != b[0]))

    words = ['kitten', 'sitting', 'kitchen', 'mitten', 'sit', '']
    for a in words:
        for b in words:
            longer = max(len(a), len(b))
            similarity = 1 - distance(a, b) / longer if longer else 1.0
            assert anls(a, [b]) == pytest.approx(similarity if similarity > 0.5 else 0)
    assert anls('Kitten', ['x', 'kitchen']) == pytest.approx(1 - 2 / 7)
    assert anls('a', []) == 0.0


def test_interval_of_independent_scores_is_near_the_normal_one():
    scores = [1.0] * 120 + [0.0] * 280
    found = interval(scores)
    half = 1.96 * math.sqrt(0.3 * 0.7 / 400)
    assert found.value == pytest.approx(0.3)
    assert found.low == pytest.approx(0.3 - half, abs=0.006)
    assert found.high == pytest.approx(0.3 + half, abs=0.006)
    assert interval(scores) == found
    uneven = np.random.default_rng(0).random(50).tolist()
    assert interval(uneven) == interval(uneven) != interval(uneven, seed=1)


def test_interval_draws_groups_whole():
    # 40 pictures with 10 equal answers each are 40 observations, not 400.
    answers = np.random.default_rng(0).integers(0, 2, 40)
    scores, groups = np.repeat(answers, 10).tolist(), np.repeat(np.arange(40), 10).tolist()
    grouped, alone, wrong = interval(scores, groups), interval(answers.tolist()), interval(scores)
    assert grouped.high - grouped.low == pytest.approx(alone.high - alone.low, rel=0.1)
    assert grouped.high - grouped.low > 2.5 * (wrong.high - wrong.low)
    assert grouped.value == pytest.approx(alone.value)


def test_groups_of_unequal_size_keep_the_mean_over_questions():
    found = interval([1.0] * 9 + [0.0], ['a'] * 9 + ['b'])
    assert (found.value, found.low, found.high) == (0.9, 0.0, 1.0)


def test_pairs_say_more_than_two_intervals():
    rng = np.random.default_rng(0)
    before = rng.integers(0, 2, 200).astype(float)
    after = np.where(rng.random(200) < 0.1, 1.0, before)
    difference = interval((after - before).tolist())
    assert difference.low > 0
    assert interval(before.tolist()).high > interval(after.tolist()).low  # apart they overlap


def test_no_scores_are_refused():
    with pytest.raises(DataError, match='no scores'):
        interval([])
