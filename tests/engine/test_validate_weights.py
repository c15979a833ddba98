"""Weights and tokenizers that are not there are told before anything is set up, and how to get them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from mmft.cli.configs import load_config
from mmft.engine.judging.config import find_problems, validate_config
from tests.engine.test_validate import ENCODER, config, problems
from tests.engine.tiny import TOKENIZER
from tests.export.tiny import make_base, model_config


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
        assert not find_problems(cfg).missing
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
    assert not find_problems(cfg).missing


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


@pytest.fixture(scope='module')
def bases(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, Path]:
    """A model of 2 + 2 layers, and its directories in every layout."""
    folder, model = tmp_path_factory.mktemp('bases'), model_config('Qwen2', vocab_size=1024)
    for layout in ('hf', 'official', 'native'):
        make_base(folder / layout, model, layout)
    return model, folder


def against(bases: tuple[dict, Path], layout: str, tmp_path: Path, part: str = 'llm', **changes: Any) -> list[str]:
    """What is wrong with a config whose ``pretrained`` is there."""
    model, folder = bases
    cfg = config(tmp_path, {**model, part: {**model[part], **changes}}, pretrained=str(folder / layout))
    return find_problems(cfg).wrong


@pytest.mark.parametrize('layout', ['hf', 'official', 'native'])
def test_a_base_that_is_there_is_compared_with_the_model(bases: tuple[dict, Path], layout: str, tmp_path: Path) -> None:
    """As the start compares it: in settings, names and shapes."""
    assert against(bases, layout, tmp_path) == []
    for part, change, message in (
        ('llm', {'rope_theta': 5.0}, 'model.llm.rope_theta = 5.0, but'),
        ('llm', {'rms_norm_eps': 1e-6}, 'model.llm.rms_norm_eps = 1e-06, but'),
        ('llm', {'type': 'Llama'}, "model.llm.type = 'Llama', but"),
        ('llm', {'vocab_size': 1026}, 'llm.lm.model.embed_tokens.weight: (1024, 64) in the weights, (1026, 64) in the'),
        ('llm', {'num_hidden_layers': 1}, 'layers.1.input_layernorm.weight: (64,) in the weights, not in the model'),
        ('llm', {'num_hidden_layers': 3}, 'layers.2.input_layernorm.weight: in the model, but not in the weights'),
        ('llm', {'intermediate_size': 80}, 'down_proj.weight: (64, 96) in the weights, (64, 80) in the model'),
        ('vision', {'num_attention_heads': 2}, 'model.vision.num_attention_heads = 2, but'),
    ):
        wrong = '\n'.join(against(bases, layout, tmp_path, part, **change))
        assert wrong.startswith('pretrained: '), change
        assert message in wrong


def test_the_same_float32_is_the_same_number(bases: tuple[dict, Path], tmp_path: Path) -> None:
    assert against(bases, 'hf', tmp_path, rms_norm_eps=9.999999747378752e-06) == []
    assert against(bases, 'hf', tmp_path, 'vision', layer_norm_eps=9.999999974752427e-07) == []
    assert against(bases, 'hf', tmp_path, rms_norm_eps=1.0001e-05)


def test_weights_that_cannot_be_read_are_told_too(bases: tuple[dict, Path], tmp_path: Path) -> None:
    model, folder = bases
    shutil.copytree(folder / 'hf', tmp_path / 'cut')
    weights = tmp_path / 'cut' / 'model.safetensors'
    weights.write_bytes(weights.read_bytes()[:5000])
    cfg = config(tmp_path, model, pretrained=str(tmp_path / 'cut'))
    assert 'model.safetensors cannot be read' in problems(cfg)


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
    how = 'makes them; or put your own into'
    assert f'to do: `{command}` in a clone of mmft {how} {cfg.pretrained}' in problems(cfg)
    (tmp_path / 'Makefile').touch()
    assert f'to do: `{command}` {how} {cfg.pretrained}' in problems(cfg)


def test_the_tokenizer_of_a_demo_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = load_config('internvl2_tiny_base')
    monkeypatch.chdir(tmp_path)
    cfg.work_dir = str(tmp_path)
    said = problems(cfg)
    assert 'encoder.tokenizer: tools/demo_food/tokenizer does not exist' in said
    assert 'correct the path, or run `make demo` in a clone of mmft' in said


def test_names_of_a_hub_in_a_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / 'internvl').mkdir()
    monkeypatch.chdir(tmp_path)
    told = problems(config(tmp_path, pretrained='OpenGVLab/InternVL2-1B'))
    assert "pretrained = 'OpenGVLab/InternVL2-1B' does not exist" in told
    assert 'hf download OpenGVLab/InternVL2-1B --local-dir pretrained/InternVL2-1B' in told
    told = problems(config(tmp_path, encoder={**ENCODER, 'tokenizer': 'Qwen/Qwen2-0.5B'}))
    assert 'encoder.tokenizer: Qwen/Qwen2-0.5B does not exist' in told
    assert 'hf download Qwen/Qwen2-0.5B --local-dir' in told
    assert 'to do: did you mean internvl?' in problems(config(tmp_path, pretrained='internvl2'))
