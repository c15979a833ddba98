"""Sampling settings: what becomes of scores, beside transformers' own processors."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from mmft.structures import Sample
from mmft.talk.sampling import GumbelNoise, logits_processors

PROMPT, ANSWER = torch.tensor([3, 5, 40, 5]), torch.tensor([[7, 3]])
SCORES = torch.randn(1, 32, generator=torch.Generator().manual_seed(0)) * 3


def processed(**settings):
    sample = Sample(input_ids=PROMPT, labels=PROMPT, pixel_values=None, num_tiles=[], num_slots=[], image_sizes=[])
    made = logits_processors(settings, sample)
    return LogitsProcessorList([each for each in made if not isinstance(each, GumbelNoise)])(ANSWER, SCORES.clone())


@pytest.mark.parametrize(
    'settings', [{}, {'temperature': 0}, {'temperature': 0.0, 'top_k': 1, 'top_p': 0.5, 'seed': 1}]
)
def test_greedy_scores_stay_as_they_are(settings):
    assert torch.equal(processed(**settings), SCORES)


def test_warpers_are_those_of_transformers_in_its_order():
    want = LogitsProcessorList(
        [TemperatureLogitsWarper(0.7), TopKLogitsWarper(20), TopPLogitsWarper(0.9), MinPLogitsWarper(0.05)]
    )(ANSWER, SCORES)
    got = processed(temperature=0.7, top_k=20, top_p=0.9, min_p=0.05)
    assert torch.equal(got, want)
    assert 1 < got.isfinite().sum() < 20


def test_repetitions_of_the_prompt_count_too_but_not_tokens_without_a_score():
    penalty = RepetitionPenaltyLogitsProcessor(1.5)
    want = penalty(torch.tensor([[3, 5, 5, 7, 3]]), SCORES.clone())  # without 40, an image token
    assert torch.equal(processed(repetition_penalty=1.5), want)
    assert (want != SCORES).sum() == 3


def test_a_bias_is_added_to_the_scores_of_its_tokens():
    changed = processed(logit_bias={'4': 100.0, '9': -2.5})
    assert changed.argmax() == 4
    assert changed[0, 9] == SCORES[0, 9] - 2.5
    assert (changed != SCORES).sum() == 2
