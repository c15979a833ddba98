"""Weights and tokenizers that are not there are told before anything is set up, and how to get them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from mmft.cli.configs import load_config
from mmft.engine.validate import find_problems, validate_config
from tests.engine.test_validate import ENCODER, config, problems
from tests.engine.tiny import TOKENIZER


def model_directory(path: Path, *files: str) -> str:
    shutil.copytree(TOKENIZER, path)
    for name in files:
        (path / name).write_text('{}')
    return str(path)


def without_tokenizer() -> dict:
    return {key: value for key, value in ENCODER.items() if key != 'tokenizer'}


@pytest.mark.parametrize(
    ('files', 'lack'),
    [
        ((), 'holds no config.json'),
        (('config.json',), 'holds no weights (model.safetensors or pytorch_model.bin)'),
        (('config.json', 'model.safetensors'), ''),
        (('config.json', 'pytorch_model.bin'), ''),
        (('config.json', 'adapter_config.json'), ''),
        (('mm_projector.bin',), ''),
    ],
)
def test_a_base_without_weights(tmp_path: Path, files: tuple[str, ...], lack: str) -> None:
    base = model_directory(tmp_path / 'base', *files)
    cfg = config(tmp_path, pretrained=base, pretrained_repo='a/b', encoder=without_tokenizer())
    if not lack:
        validate_config(cfg)
        return
    told = problems(cfg)
    assert f'pretrained = {base!r} {lack}' in told
    assert f'hf download a/b --local-dir {base}' in told
    assert not find_problems(cfg).wrong


def test_an_interrupted_download(tmp_path: Path) -> None:
    base = model_directory(tmp_path / 'base', 'config.json', 'a.safetensors')
    shards = {'weight_map': {'x': 'a.safetensors', 'y': 'b.safetensors', 'z': 'b.safetensors'}}
    (tmp_path / 'base' / 'model.safetensors.index.json').write_text(json.dumps(shards))
    cfg = config(tmp_path, pretrained=base, encoder=without_tokenizer())
    assert 'lacks 1 of 2 weight files: b.safetensors' in problems(cfg)
    (tmp_path / 'base' / 'b.safetensors').touch()
    validate_config(cfg)


def test_a_tokenizer_comes_from_somewhere(tmp_path: Path) -> None:
    nowhere = config(tmp_path, pretrained=None, encoder=without_tokenizer())
    told = problems(nowhere)
    assert told.startswith('encoder.tokenizer is missing: pretrained = None has none')
    assert 'set pretrained to the base weights, or encoder.tokenizer' in told
    assert find_problems(nowhere).wrong

    validate_config(config(tmp_path, encoder=dict(ENCODER)))
    gone = config(tmp_path, encoder={**ENCODER, 'tokenizer': 'gone'})
    assert 'encoder.tokenizer: gone does not exist' in problems(gone)
    bare = tmp_path / 'bare'
    bare.mkdir()
    for name in ('config.json', 'model.safetensors'):
        (bare / name).write_text('{}')
    told = problems(config(tmp_path, pretrained=str(bare), encoder=without_tokenizer()))
    assert f'encoder.tokenizer: {bare} holds no tokenizer' in told
    assert 'base weights' not in told


@pytest.mark.parametrize(
    ('name', 'command'),
    [
        ('internvl2_tiny_food_lora', 'make demo'),
        ('llava_tiny_food_align', 'make demo-llava'),
        ('llava_tiny_food_tune', 'make demo-llava'),
    ],
)
def test_the_base_of_a_demo_is_made_by_it(
    name: str, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = load_config(name)
    monkeypatch.chdir(tmp_path)
    cfg.work_dir = str(tmp_path)
    assert f'to do: `{command}` makes them; or put your own into {cfg.pretrained}' in problems(cfg)
