"""All problems of a config are told at once, before anything is built."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmft.engine.validate import validate_config
from mmft.errors import ConfigError
from tests.engine.toy import toy_config


def test_a_good_config_passes(tmp_path: Path) -> None:
    validate_config(toy_config(tmp_path))


def test_everything_at_once(tmp_path: Path) -> None:
    cfg = toy_config(
        tmp_path,
        optim_wrappr=dict(),
        tune=dict(visoin='frozen', llm='half'),
        optim_wrapper=dict(
            optimizer=dict(lr=0.0), accumulative_counts=0, paramwise_cfg=dict(parts=dict(visual=dict(lr='x')))
        ),
        train_cfg=dict(max_iters=3),
        val_cfg=dict(max_sample=1),
        train_dataloader=dict(batch_size=0, dataset=dict(ann_file='nowhere.jsonl')),
        pretrained='pretrained/InternVL2-2B',
        pretrained_repo='OpenGVLab/InternVL2-2B',
    )
    with pytest.raises(ConfigError) as caught:
        validate_config(cfg)
    text = str(caught.value)
    for part in (
        "unknown key `optim_wrappr`; did you mean 'optim_wrapper'?",
        'tune.visoin',
        "tune.llm: type 'half'",
        'optimizer.lr = 0.0; expected a number above 0',
        'accumulative_counts = 0',
        "parts.visual: no such part; did you mean 'vision'?",
        "parts.visual.lr = 'x'",
        "['max_epochs', 'max_iters']",
        "val_cfg.max_sample: unknown; did you mean 'max_samples'?",
        'train_dataloader.batch_size = 0',
        'nowhere.jsonl does not exist',
        'hf download OpenGVLab/InternVL2-2B --local-dir pretrained/InternVL2-2B',
    ):
        assert part in text, part


def test_a_misspelt_setting_of_the_language_model(tmp_path: Path) -> None:
    cfg = toy_config(tmp_path)
    cfg.model = dict(type='VLM', llm=dict(type='InternLM2', bias=True, rope_tetha=1e6))
    with pytest.raises(ConfigError, match=r"model\.llm\.rope_tetha: .*; did you mean 'rope_theta'\?$"):
        validate_config(cfg)


def test_variables_of_the_config_itself_are_no_problem(tmp_path: Path) -> None:
    validate_config(toy_config(tmp_path, data_root='data/food/', prompt='x'))


def test_missing_sections(tmp_path: Path) -> None:
    cfg = toy_config(tmp_path)
    cfg.optim_wrapper = None
    cfg.model = None
    with pytest.raises(ConfigError, match='`model` is missing') as caught:
        validate_config(cfg)
    assert '`optim_wrapper` is missing' in str(caught.value)
