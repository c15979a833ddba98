"""Every row of ``mmft/serve/backends/support.py`` in LMDeploy 0.18: what it serves answers as ``model.chat`` does.

Its own preprocessing, weight loader, model classes and api_server, on the CPU; see ``lmdeploy_cpu.py`` for what that
cannot show.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
import torch

from mmft.data.prompt import to_parts
from mmft.export.gate import logits_of
from mmft.serve.backends.support import support_of
from mmft.talk.remote_answerer import RemoteAnswerer, data_url
from tests.export.tiny import make_base
from tests.export.tiny_llava import llava_config, llava_encoder
from tests.serve.lmdeploy_cpu import Served, preprocess, same_answer, same_prompt
from tests.serve.lmdeploy_server import Servers
from tests.serve.served import CASES, DOCUMENT, LESSONS, Case, Lesson, write_table

SERVED = [case for case in CASES if not case.row.pytorch]
REFUSED = [case for case in CASES if case.row.pytorch]


def each(cases: list[Case]) -> Any:
    return pytest.mark.parametrize('case', cases, ids=lambda case: case.name)


@pytest.fixture(scope='module')
def servers(made, tmp_path_factory):
    """LMDeploy's api_server for every case that it serves, all started at once."""
    with Servers(tmp_path_factory.mktemp('logs')) as servers:
        for case in SERVED:
            options = ['--trust-remote-code'] if case.row.remote_code else []
            servers.start(case.name, made(case).path, *options)
        yield servers


def asked(lesson: Lesson) -> list[dict[str, Any]]:
    """OpenAI's messages, up to the last question."""
    return to_parts(lesson.messages[:-1], map(data_url, lesson.images))


@pytest.mark.parametrize('case', CASES, ids=lambda case: case.name)
def test_the_row_is_found_and_is_what_lmdeploy_says(case, made):
    from lmdeploy.pytorch.models.module_map import MODULE_MAP
    from lmdeploy.turbomind.supported_models import SUPPORTED_ARCHS

    config = json.loads((made(case).path / 'config.json').read_text())
    assert support_of(config) == case.row
    text = (config.get('text_config') or config.get('llm_config') or {}).get('architectures', [''])[0]
    assert case.row.language_model in ('', text)
    turbomind = case.row.architecture in SUPPORTED_ARCHS and text in SUPPORTED_ARCHS
    assert (not case.row.turbomind) is turbomind
    if not case.row.pytorch:
        assert case.row.architecture in MODULE_MAP
        assert text in MODULE_MAP


@each(SERVED)
def test_preprocessing_gives_our_token_ids(case, made):
    model = made(case)
    for lesson in LESSONS.values():
        sample = model.encoder(lesson.messages[:-1], lesson.images, add_generation_prompt=True)
        same_prompt(model.path, asked(lesson), sample, case.row.remote_code)


@each(SERVED)
def test_every_weight_is_read_and_the_logits_are_ours(case, made):
    model = made(case)
    served = Served(model.path, case.row.remote_code)
    assert served.never_written == []
    for lesson in LESSONS.values():
        sample = model.encoder(lesson.messages[:-1], lesson.images, add_generation_prompt=True)
        same_answer(served, model.path, asked(lesson), model.model, sample)


@each(SERVED)
def test_the_api_server_answers_as_chat_does(case, made, servers):
    model, url = made(case), servers.wait(case.name)
    for lesson in LESSONS.values():
        wanted = model.model.chat(
            model.encoder, lesson.messages[-2]['content'], lesson.images, lesson.messages[:-2], max_new_tokens=64
        )
        assert wanted == lesson.answers[-1]
        sample = model.encoder(lesson.messages[:-1], lesson.images, add_generation_prompt=True)
        whole = complete(url, case.name, lesson)
        assert whole['choices'][0]['message']['content'].strip() == wanted
        assert whole['choices'][0]['finish_reason'] == 'stop'
        assert whole['usage']['prompt_tokens'] == len(sample.input_ids)
        with RemoteAnswerer(url) as remote:
            pieces = list(remote.stream(lesson.messages[:-1], lesson.images, max_new_tokens=64))
        assert ''.join(pieces) == wanted
        assert len(pieces) > 2
        assert not any('\ufffd' in piece for piece in pieces)


def complete(url: str, model: str, lesson: Lesson, **more: Any) -> dict[str, Any]:
    request = {'model': model, 'messages': asked(lesson), 'temperature': 0, 'max_tokens': 64, **more}
    answer = httpx.post(f'{url}/v1/chat/completions', json=request, timeout=120, trust_env=False)
    assert answer.status_code == 200, answer.text
    return answer.json()


@each([SERVED[0], next(case for case in SERVED if case.tower == 'CLIP')])
def test_many_at_once_get_their_own_pictures(case, made, servers):
    url = servers.wait(case.name)
    with ThreadPoolExecutor(16) as pool:
        lessons = list(LESSONS.values()) * 5
        answers = list(pool.map(lambda lesson: complete(url, case.name, lesson), lessons))
    got = [answer['choices'][0]['message']['content'].strip() for answer in answers]
    assert got == [lesson.answers[-1] for lesson in lessons]


@each([SERVED[0]])
def test_an_answer_cut_short_says_so(case, servers):
    whole = complete(servers.wait(case.name), case.name, LESSONS['text'], max_tokens=2)
    assert whole['choices'][0]['finish_reason'] == 'length'
    assert whole['usage']['completion_tokens'] == 2


FAILS = {
    'no such language model': 'Can not found rewrite',
    'no other tower': 'is not implemented',
    'fails under transformers 5': "unexpected keyword argument 'trust_remote_code'",
    'has no LLaVA-OneVision': "'LlavaOnevisionConfig' object has no attribute",
    'only mmft': 'Can not found rewrite|has no attribute',
}
"""What a reason of the table says -> what LMDeploy says."""


@each(REFUSED)
def test_what_the_table_refuses_fails_or_answers_otherwise(case, made):
    """A row to be looked at again when LMDeploy learns it."""
    model, lesson = made(case), LESSONS['red']

    def answer() -> torch.Tensor:
        served = Served(model.path)
        return served.answer(preprocess(model.path, asked(lesson)), 1)[0]

    said = next((text for reason, text in FAILS.items() if reason in case.row.pytorch), None)
    if said:
        with pytest.raises(Exception, match=said):
            answer()
        return
    assert case.llm == 'Gemma'
    want = logits_of(model.model, model.encoder(lesson.messages[:-1], lesson.images, add_generation_prompt=True))
    assert (answer()[:, : want.shape[1]] - want).abs().max() > 0.01 * want.abs().max()


def test_heads_of_a_width_of_their_own(tmp_path):
    """Mistral-Nemo's, for one: LMDeploy lays out its cache for others."""
    config = llava_config('Mistral', llm={'head_dim': 32})
    encoder = llava_encoder('Mistral')
    base = make_base(tmp_path / 'base', config, 'hf', encoder=encoder)
    found = support_of(json.loads((base / 'config.json').read_text()))
    assert 'heads of hidden_size' in found.pytorch
    assert found.backends == ['transformers']
    with pytest.raises(RuntimeError, match='shape'):
        Served(base).step([1, 2, 3])


def test_the_table_in_the_documents_is_this_one():
    text = DOCUMENT.read_text(encoding='utf-8')
    assert write_table(text) == text, 'write it anew: python -m tests.serve.served'
