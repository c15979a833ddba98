"""Exports for answers: in a layout of the backends, or, where none holds the model, in mmft's own."""

from __future__ import annotations

import json

import pytest

from mmft.errors import ConfigError
from mmft.export.cache import cached_export
from mmft.talk.open_answerer import check_target, open_answerer
from tests.export.tiny import LORA, make_base, make_checkpoint, make_encoder, model_config, picture

FULL = dict.fromkeys(('vision', 'projector', 'llm'), 'full')


@pytest.fixture
def odd(tmp_path):
    """(config, checkpoint, model, encoder) of a mix that no backend knows."""
    encoder = make_encoder('Qwen2')
    config = {**model_config('Qwen2'), 'projector': {'type': 'Resampler', 'num_queries': 4, 'num_heads': 2}}
    cfg = {'model': config, 'tune': FULL, 'dtype': 'float32'}
    (tmp_path / 'run').mkdir()
    path, model = make_checkpoint(tmp_path / 'run' / 'iter_1.pth', cfg, encoder)
    return cfg, path, model, encoder


def test_an_odd_mix_is_chatted_with(odd, capsys):
    cfg, path, model, encoder = odd
    check_target((cfg, path))
    image = picture(60, 60)
    with open_answerer((cfg, path)) as answerer:
        got = answerer.answer([{'role': 'user', 'content': 'What?'}], [image], max_new_tokens=8)
    assert got == model.chat(encoder, 'What?', [image], max_new_tokens=8)
    said = capsys.readouterr().err
    assert said.count('writing') == 1
    assert 'exported before' in said


def test_but_not_served(odd):
    cfg, path, *_ = odd
    own = cached_export(cfg, path, log=lambda line: None, native=True)
    assert json.loads((own / 'config.json').read_text())['architectures'] == ['MMFTForConditionalGeneration']
    with pytest.raises(ConfigError, match=r'(?s)no backend serves this model\. .*Resampler.*mmft chat') as error:
        cached_export(cfg, path)
    assert '--layout native' not in str(error.value)
    assert list(own.parent.glob('iter_1-*')) == [own]


def test_what_fits_is_written_for_backends(tmp_path):
    encoder, config = make_encoder('Qwen2'), model_config('Qwen2')
    cfg = {'model': config, 'pretrained': str(make_base(tmp_path / 'base', config, encoder=encoder)), 'tune': LORA}
    path, _ = make_checkpoint(tmp_path / 'iter_1.pth', cfg, encoder)
    made = cached_export(cfg, path, log=lambda line: None, native=True)
    assert cached_export(cfg, path, log=lambda line: None) == made
    (tmp_path / 'base' / 'connector').mkdir()  # weights may lie in folders
    (tmp_path / 'base' / 'connector' / 'pytorch_model.bin').write_bytes(b'')
    assert cached_export(cfg, path, log=lambda line: None) != made


@pytest.mark.parametrize('native', [False, True])
def test_another_problem_is_told_as_it_is(tmp_path, native):
    with pytest.raises(ConfigError, match='a config without model and pretrained') as error:
        cached_export({'tune': FULL}, None, tmp_path, native=native)
    assert 'backend' not in str(error.value)
