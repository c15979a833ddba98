"""Every registered metric keeps the contract, whoever wrote it; VQA's agrees with the official scorer row by row.

The golden rows (GT-Vision-Lab/VQA at a013f004, ``vqaEval.py`` run as it is) are made-up questions in the files' layout.
"""

from __future__ import annotations

import doctest
import random
import re
import sys
from pathlib import Path

import pytest

from mmft.errors import ConfigError
from mmft.evaluation.metrics import build_metric, build_metrics
from mmft.evaluation.vqa import normalize_vqa, vqa_accuracy
from mmft.registry import METRICS
from tests.helpers import golden_json


@pytest.fixture
def registered():
    """Metrics of a user's own, gone after the test."""
    before = dict(METRICS.module_dict)

    @METRICS.register_module()
    class Within:
        def __init__(self, percent=5):
            self.share = percent / 100

        def __call__(self, answer, references):
            return any(abs(float(answer) - float(r)) <= self.share * float(r) for r in references)

    @METRICS.register_module()
    def out_of_bounds(answer, references):
        return 2.0 if answer else 'none'

    @METRICS.register_module()
    class NotCallable:
        pass

    yield
    METRICS.module_dict.clear()
    METRICS.module_dict.update(before)


def texts(rng: random.Random) -> str:
    return ''.join(rng.choice('ab cC,.。12-的!\n') for _ in range(rng.randrange(8)))


@pytest.mark.parametrize('name', METRICS.names())
def test_scores_lie_between_0_and_1_and_an_answer_is_right_by_itself(name):
    metric, rng = build_metric(name), random.Random(0)
    for _ in range(300):
        answer, references = texts(rng), [texts(rng) for _ in range(rng.randrange(11))]
        assert 0 <= metric(answer, references) <= 1
    for answer in ('egg tarts', '肠粉', '12', "don't", 'A long answer, of two parts.'):
        for count in (1, 10):
            assert metric(answer, [answer] * count) == 1


@pytest.mark.parametrize('name', METRICS.names())
def test_what_is_documented_runs(name):
    part = METRICS.get(name)
    (found,) = doctest.DocTestFinder(recurse=False).find(part, name, globs={**vars(sys.modules[part.__module__])})
    assert found.examples, f'{name} shows no example'
    assert doctest.DocTestRunner().run(found).failed == 0


@pytest.mark.parametrize('case', ['eval_vqav2', 'eval_okvqa'])
def test_vqa_accuracy_is_the_official_one(case):
    expected = golden_json(case, 'expected.json')
    given = {row['question_id']: row['answer'] for row in golden_json(case, 'predictions.json')}
    people = {
        row['question_id']: [answer['answer'] for answer in row['answers']]
        for row in golden_json(case, 'annotations.json')['annotations']
    }
    scores = {key: vqa_accuracy(given[key], people[key]) for key in given}
    assert len(scores) == len(expected['per_row']) > 10
    for row in expected['per_row']:
        assert 100 * scores[row['question_id']] == pytest.approx(row['score_exact']), row
        if not row['unanimous']:
            assert (
                normalize_vqa(given[row['question_id']].replace('\n', ' ').replace('\t', ' ').strip())
                == (row['normalised_prediction'])
            )
    assert 100 * sum(scores.values()) / len(scores) == pytest.approx(expected['aggregate']['overall_exact'])


@pytest.mark.parametrize('page', ['evaluation.md', 'zh/evaluation.md'])
def test_the_docs_list_what_is_registered(page):
    text = (Path(__file__).parents[2] / 'docs' / page).read_text(encoding='utf-8')
    table = re.search(r'(?m)^\| (?:metric|指标) \|.*\n(?:\|.*\n)+', text)[0]
    cells = [line.split('|')[1] for line in table.splitlines()[2:]]
    assert sorted(name for cell in cells for name in re.findall('`(.+?)`', cell)) == METRICS.names()


def test_a_class_takes_arguments_and_a_function_none(registered):
    assert build_metric('Within')('104', ['100']) == 1
    assert build_metric(dict(type='Within', percent=3))('104', ['100']) == 0
    with pytest.raises(ConfigError, match="did you mean 'percent'"):
        build_metric(dict(type='Within', precent=3))
    with pytest.raises(ConfigError, match=r"metric exact_match: arguments \['case'\]"):
        build_metric(dict(type='exact_match', case=True))


def test_scores_that_are_none_are_refused(registered):
    metric = build_metric('out_of_bounds')
    with pytest.raises(ConfigError, match=r"'out_of_bounds' gave 2.0 for the answer 'yes'"):
        metric('yes', [])
    with pytest.raises(ConfigError, match="gave 'none'"):
        metric('', [])


def test_all_that_is_wrong_with_a_list_is_said_at_once(registered):
    with pytest.raises(ConfigError) as caught:
        build_metrics(['exact_mtach', 'contains', 'contains', 5, {}, 'NotCallable', 'anls'], taken=['anls'])
    text = str(caught.value)
    assert len(caught.value.problems) == 6
    for part in ("did you mean 'exact_match'", "'contains', a second time", '5 where a metric should be',
                 'cannot be called', "'anls', whose name means something else"):  # fmt: skip
        assert part in text
    with pytest.raises(ConfigError, match="metrics = 'exact_match'"):
        build_metrics('exact_match')
    assert list(build_metrics(['vqa', 'exact_match'])) == ['vqa', 'exact_match']


def test_a_dotted_name_is_never_imported():
    with pytest.raises(ConfigError, match='no metric is named'):
        build_metric('os.path.commonprefix')
