"""Directories whose tokenizer hides tags such as <ref>: served with links to their files, and answers are whole."""

from __future__ import annotations

import json
import shutil

import pytest
from transformers import AutoProcessor, AutoTokenizer

from mmft.data import ChatEncoder
from mmft.data.text.special_tokens import INTERNVL_TOKENS
from mmft.data.text.tokenizers import tokenizer_to_files
from mmft.serve.backends.directory_check import check_directory
from mmft.serve.backends.with_tags import with_tags
from tests.data.test_decode import trained
from tests.export.tiny import make_base, make_encoder, model_config

ANSWER = '<ref>dish</ref><box>[[1, 2, 3, 4]]</box>'


@pytest.fixture(scope='module')
def export(tmp_path_factory):
    path = tmp_path_factory.mktemp('models') / 'food'
    return make_base(path, model_config('InternLM2'), 'hf', encoder=make_encoder('InternLM2'))


@pytest.fixture
def foreign(export, tmp_path):
    """As OpenGVLab's own directories for transformers: every tag is special, no ``encoder.json``."""
    path = tmp_path / 'InternVL3-1B-hf'
    path.mkdir()
    files = {file.name: file.read_bytes() for file in export.iterdir() if file.name != 'encoder.json'}
    files |= {'tokenizer.json': tokenizer_to_files(ChatEncoder.from_pretrained(export).tokenizer)['tokenizer.json']}
    content = json.loads(files['tokenizer.json'])
    for token in content['added_tokens']:
        token['special'] = True
    config = json.loads(files['tokenizer_config.json']) | {
        'additional_special_tokens': list(INTERNVL_TOKENS),
        'added_tokens_decoder': {
            str(token['id']): {key: value for key, value in token.items() if key != 'id'}
            for token in content['added_tokens']
        },
    }
    files |= {'tokenizer.json': json.dumps(content).encode(), 'tokenizer_config.json': json.dumps(config).encode()}
    for name, data in files.items():
        (path / name).write_bytes(data)
    return path


def test_an_export_is_served_as_it_is(export, tmp_path):
    lines = []
    assert with_tags(export, tmp_path, lines.append) == export
    assert not lines
    assert not list(tmp_path.iterdir())


def test_a_directory_that_hides_tags(foreign, tmp_path):
    encoder, lines = make_encoder('InternLM2'), []
    ids = trained(encoder, ANSWER)
    assert '<ref>' not in AutoTokenizer.from_pretrained(foreign).decode(ids, skip_special_tokens=True)
    before = {file.name: file.read_bytes() for file in foreign.iterdir()}
    view = with_tags(foreign, tmp_path / 'cache', lines.append)
    assert view.name == foreign.name
    assert with_tags(foreign, tmp_path / 'cache', lines.append) == view
    assert '<ref>' in lines[0]
    assert str(view) in lines[0]
    tokenizer = AutoProcessor.from_pretrained(view).tokenizer
    assert tokenizer.decode(ids, skip_special_tokens=True) == ANSWER
    assert tokenizer(ANSWER)['input_ids'] == AutoTokenizer.from_pretrained(foreign)(ANSWER)['input_ids']
    assert not [problem for problem in check_directory(view) if problem.stops]
    assert (view / 'model.safetensors').resolve() == foreign / 'model.safetensors'
    assert {file.name: file.read_bytes() for file in foreign.iterdir()} == before


def test_a_tokenizer_that_appends_an_end_token(export, tmp_path):
    path = tmp_path / 'food'
    shutil.copytree(export, path)
    content = json.loads((path / 'tokenizer.json').read_text())
    end = {'id': '</s>', 'ids': [2], 'tokens': ['</s>']}
    content['post_processor']['single'].append({'SpecialToken': {'id': '</s>', 'type_id': 0}})
    content['post_processor']['special_tokens']['</s>'] = end
    (path / 'tokenizer.json').write_text(json.dumps(content))
    view = with_tags(path, tmp_path / 'cache', print)
    ids = {place: AutoTokenizer.from_pretrained(place)('Hi')['input_ids'] for place in (path, view, export)}
    assert ids[path] == [*ids[view], 2]
    assert ids[view] == ids[export]


@pytest.mark.parametrize('junk', ['[]', '{', '{"added_tokens": [5]}', '{"added_tokens": [{"special": true}]}'])
@pytest.mark.parametrize('name', ['tokenizer.json', 'tokenizer_config.json', 'special_tokens_map.json'])
def test_junk_is_left_to_those_who_say_what_it_is(foreign, tmp_path, name, junk):
    (foreign / name).write_text(junk)
    if name == 'tokenizer.json' or junk == '{':
        assert with_tags(foreign, tmp_path / 'cache', print) == foreign
    else:
        with_tags(foreign, tmp_path / 'cache', print)
