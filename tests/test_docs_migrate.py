"""docs/migrate.md: every config that it names is in the tree, and every setting is one that a config takes."""

from __future__ import annotations

import argparse
import copy
import importlib
import re
from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config

from mmft.cli.configs import list_configs, load_config
from mmft.cli.main import COMMANDS
from mmft.engine.judging.config import find_problems

ROOT = Path(__file__).parent.parent
ROWS = [
    re.findall(r'`([^`]+)`', re.split(r'(?<!\\)\|', line)[-2])
    for line in (ROOT / 'docs' / 'migrate.md').read_text(encoding='utf-8').splitlines()
    if line.startswith('|')
]
# Where settings lie that the page names by their last word.
PARENTS = {
    'image_root meta_file': 'train_dataloader.dataset',
    'by_epoch interval max_keep_ckpts': 'default_hooks.checkpoint',
    'lr weight_decay betas': 'optim_wrapper.optimizer',
    'sampler dataset collate': 'train_dataloader',
    'label_mask answers': 'default_hooks',
    'image_processor': 'encoder',
}
KEYS = ('model', 'pretrained', 'encoder', 'tune', 'train_dataloader', 'val_dataloader', 'optim_wrapper', 'train_cfg',
        'default_hooks', 'param_scheduler', 'visualizer', 'work_dir', 'init_from', 'seed', 'dtype', 'tf32',
        'gradient_checkpointing', 'deepspeed')  # fmt: skip
# Settings that a config may leave out.
OPTIONAL = ('train_cfg.val_interval', 'train_dataloader.dataset.meta_file')
# Values of the setting before them, and names of files, of XTuner and of LLaVA.
WORDS = ("'vicuna_v1'", "dict(type='Linear')", 'linear', "'bfloat16'", "'float16'", 'PadSquare', 'CenterCrop',
         'AnyResTiler', 'OneVisionTiler', 'none', 'iter_N.pth', 'DatasetInfoHook', 'EvaluateChatHook',
         "pip install '.[track]'")  # fmt: skip


def setting(span: str) -> str | None:
    """``span`` with the whole path of the setting that it names; None if it names none."""
    name = re.split(r'\W', span.lstrip('.'))[0]
    parent = next((parent for names, parent in PARENTS.items() if name in names.split()), None)
    return f'{parent}.{span.lstrip(".")}' if parent else span if name in KEYS else None


def options_of(command: str) -> list[str]:
    parser = argparse.ArgumentParser()
    importlib.import_module(COMMANDS[command][0]).add_arguments(parser)
    return list(parser._option_string_actions)


def found(cfg: Any, path: str) -> bool:
    """Whether the config has a place at ``path``, such as ``optim_wrapper.clip_grad`` or ``pretrained['llm']``."""
    for key in re.findall(r'\w+', path):
        if key not in cfg:
            return False
        cfg = cfg[key]
    return True


@pytest.fixture(scope='module')
def base() -> Config:
    cfg = load_config('llava15_7b_lora')
    cfg.work_dir = 'work_dirs/test'
    # Few layers: they are built to be looked at, for each row.
    cfg.model.llm.num_hidden_layers = 1
    cfg.model.vision.num_hidden_layers = 2
    # LLaVA's own recipes validate nothing.
    cfg.val_dataloader = copy.deepcopy(cfg.train_dataloader)
    assert not find_problems(cfg).wrong
    return cfg


@pytest.mark.parametrize('spans', ROWS, ids=lambda spans: spans[0] if spans else 'nothing')
def test_each_row_names_what_there_is(base: Config, spans: list[str]) -> None:
    cfg, changed = copy.deepcopy(base), False
    for span in spans:
        if path := setting(span):
            if re.search(r'[=(]', path):
                change(cfg, path)
                changed = True
            else:
                assert found(cfg, path) or path in OPTIONAL, path
        elif not (span in WORDS or is_config(span) or is_base(span)):
            check_command(span)
    assert not changed or not find_problems(cfg).wrong


def is_config(span: str) -> bool:
    return span in list_configs() or (ROOT / 'configs' / '_base_' / 'models' / f'{span}.py').is_file()


def is_base(span: str) -> bool:
    """``_base_/models``, or an import from a file there, of names that it has."""
    if not (line := re.fullmatch(r'from \.\.(\S+) import (.*)', span)):
        return span.startswith('_base_/') and (ROOT / 'configs' / span).is_dir()
    file = Config.fromfile(ROOT / 'configs' / f'{line[1].replace(".", "/")}.py')
    return all(name in file for name in line[2].split(', '))


def change(cfg: Config, code: str) -> None:
    """Run a line of the page on a config; a dict is merged into the one that is there, as ``.update`` does."""
    code = re.sub(r', \.\.\.', '', code).replace('=...', '=4')
    if code.startswith('model='):
        assert set(re.findall(r'(\w+)=', code)[1:]) <= set(cfg.model)
        return
    namespace = {key: cfg[key] for key in KEYS if key in cfg} | {'N': 10}
    if merged := re.fullmatch(r'([\w.]+)=dict\((.*)\)', code):
        code = f'{merged[1]}.update({merged[2]})'
        if 'max_iters' in code:  # one or the other
            del cfg.train_cfg['max_epochs']
    exec(code, namespace)
    for key in KEYS:
        if key in namespace:
            cfg[key] = namespace[key]


def check_command(span: str) -> None:
    """A command of mmft with options that it has, or options of ``mmft train``."""
    words = span.split()
    command = words[1] if words[0] == 'mmft' else 'train'
    assert words[0] in ('mmft', 'torchrun') or words[0].startswith('--'), span
    own = words[words.index('tools/train.py') :] if words[0] == 'torchrun' else words
    assert {word for word in own if word.startswith('--')} <= set(options_of(command)), span
