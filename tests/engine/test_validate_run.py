"""What a run is set up from: wrong numbers, types and names are told together, before anything is built."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from mmengine.config import ConfigDict

from mmft.engine.judging.config import find_problems
from mmft.engine.schedule import schedule_problems
from tests.engine.test_validate import config, problems

ADAM = dict(type='AdamW', lr=1e-3)


def change(cfg: Any, name: str, value: Any) -> None:
    """``name`` of the config; a value that is no dict also takes the place of one."""
    *path, last = name.split('.')
    node = cfg
    for key in path:
        node = node.setdefault(key, ConfigDict())
    node[last] = value


@pytest.mark.parametrize(
    ('name', 'value', 'expected'),
    [
        ('optim_wrapper.clip_grad.max_norm', -3, 'clip_grad.max_norm = -3; expected a number above 0'),
        ('optim_wrapper.clip_grad.max_norm', 0, 'clip_grad.max_norm = 0; expected'),
        ('optim_wrapper.clip_grad.max_nrom', 1.0, "clip_grad.max_nrom: unknown; did you mean 'max_norm'?"),
        ('optim_wrapper.clip_grad', 5, 'optim_wrapper.clip_grad = 5; expected dict(max_norm=1.0), or None'),
        ('optim_wrapper.clip_gard', {}, "optim_wrapper.clip_gard: OptimWrapper has no such setting; did you"),
        ('optim_wrapper.loss_scale', 0.0, 'optim_wrapper.loss_scale = 0.0'),
        ('optim_wrapper.optimizer.betas', 'foo', "optimizer.betas = 'foo'; expected 2 numbers, such as (0.9, 0.999)"),
        ('optim_wrapper.optimizer.betas', [0.9], 'optimizer.betas = [0.9]'),
        ('optim_wrapper.optimizer.betas', [0.9, 1.5], 'optim_wrapper.optimizer: it cannot be built: ValueError'),
        ('optim_wrapper.optimizer.eps', '1e-8', "optimizer.eps = '1e-8'; expected a number"),
        ('optim_wrapper.optimizer.momentum', 0.9, 'optim_wrapper.optimizer.momentum: AdamW has no such setting'),
        ('optim_wrapper.optimizer.type', 'AdamX', "optim_wrapper.optimizer.type: no optimizer is named 'AdamX'"),
        ('optim_wrapper.optimizer', 'AdamW', 'optim_wrapper.optimizer is missing'),
        ('optim_wrapper.type', 'OptimWraper', "did you mean 'OptimWrapper'"),
        ('optim_wrapper', 3, 'optim_wrapper = 3; expected a dict'),
        ('optim_wrapper.paramwise_cfg', 3, 'optim_wrapper.paramwise_cfg = 3'),
        ('optim_wrapper.paramwise_cfg.prats', {}, "optim_wrapper.paramwise_cfg: unknown ['prats']"),
        ('optim_wrapper.paramwise_cfg.parts.llm', 1e-4, 'parts.llm = 0.0001; expected a dict'),
        ('optim_wrapper.paramwise_cfg.parts.llm.lr_mul', 1, "llm.lr_mul: unknown; did you mean 'lr_mult'?"),
        ('optim_wrapper.paramwise_cfg.parts.llm.lr_mult', -1, 'parts.llm.lr_mult = -1; expected a number above 0'),
        ('optim_wrapper.paramwise_cfg.parts.llm.layer_decay', 0.9, 'parts.llm.layer_decay: unknown'),
        ('optim_wrapper.paramwise_cfg.parts.vision.layer_decay', 1.1, 'expected a number above 0, at most 1'),
        ('train_dataloader.shuffle', True, 'train_dataloader.shuffle: train_dataloader.sampler decides that'),
        ('train_dataloader.pin_memry', True, "train_dataloader.pin_memry: unknown; did you mean 'pin_memory'?"),
        ('train_dataloader.prefetch_factor', 2, 'train_dataloader: it cannot be built: ValueError: prefetch_factor'),
        ('log_level', 'info', "log_level = 'info'; expected 'DEBUG'"),
        ('model_wrapper_cfg', dict(find_unused=True), "find_unused: unknown; did you mean 'find_unused_parameters'?"),
        ('env_cfg', 3, 'env_cfg = 3; expected a dict'),
        ('env_cfg', dict(cudnn=True), "env_cfg.cudnn: unknown; did you mean 'cudnn_benchmark'?"),
        ('env_cfg', dict(mp_cfg=dict(mp_start_method='x')), "mp_start_method = 'x'; expected one of ['fork'"),
        ('env_cfg', dict(dist_cfg=dict(timeout='1')), "env_cfg.dist_cfg.timeout = '1'; expected seconds"),
        ('custom_hooks', [3], 'custom_hooks.0 = 3; expected a dict'),
        ('train_cfg.val_interval', -1, 'train_cfg.val_interval = -1; expected a whole number from 0'),
        ('default_hooks.checkpoint.save_best', 'loss', "save_best = 'loss', but there is no val_dataloader"),
        ('custom_hooks', [dict(type='CheckpointHook')], 'custom_hooks.0: default_hooks.checkpoint is a CheckpointHook'),
        ('custom_hooks', [dict(type='ParamSchedulerHook')], 'default_hooks.param_scheduler is a ParamSchedulerHook'),
        ('resize_embeddings', 'x', "resize_embeddings = 'x'; expected True or False"),
        ('tf32', 1, "tf32 = 1; expected True, False or None (torch's default)"),
        ('param_scheduler.min_lr_ratio', -4, 'param_scheduler.min_lr_ratio = -4; expected a number from 0 to 1'),
        ('param_scheduler.warmup_ratio', 2, 'param_scheduler.warmup_ratio = 2; expected a number from 0 to below 1'),
        ('param_scheduler.warmup_ratio', 'abc', "param_scheduler.warmup_ratio = 'abc'"),
        ('param_scheduler.warmup', 2.5, 'param_scheduler.warmup = 2.5'),
        ('param_scheduler.warm_up', 3, "param_scheduler.warm_up: unknown; did you mean 'warmup'?"),
        ('param_scheduler.type', 'cosin', "did you mean 'cosine'?"),
        ('param_scheduler', 'cosine', "param_scheduler = 'cosine'; expected dict("),
        ('param_scheduler', [dict(type='cosine')], "param_scheduler.0: 'cosine' is warm-up and decay in one"),
        ('param_scheduler', [dict(type='LinearLR', start_factor=7)], 'param_scheduler: it cannot be built: ValueError'),
        ('val_cfg.max_samples', -3, 'val_cfg.max_samples = -3; expected a whole number from 0, or None for all'),
        ('val_cfg.max_new_tokens', 0, 'val_cfg.max_new_tokens = 0'),
        ('val_cfg', 7, 'val_cfg = 7'),
        ('seed', -1, 'seed = -1; expected a whole number from 0 to 4294967295, or None'),
        ('seed', 99999999999, 'seed = 99999999999'),
        ('launcher', 'slrum', "launcher = 'slrum'; expected none, pytorch, slurm, mpi"),
        ('dtype', 'bf16', "dtype 'bf16'"),
        ('deepspeed', 'zero9', "deepspeed = 'zero9' names no setting; did you mean"),
        ('default_hooks.progress', 5, 'default_hooks.progress = 5; expected a dict, or None'),
        ('default_hooks.progress.intervall', 5, "default_hooks.progress: hook ProgressHook: got an unexpected keyword"),
        ('default_hooks.progress.interval', 0, 'default_hooks.progress: ProgressHook: interval 0'),
        ('default_hooks.checkpoint.max_keep_ckpts', 0, 'default_hooks.checkpoint: CheckpointHook('),
        ('custom_hooks', [dict(type='EMAHok')], "custom_hooks.0: no hook is named 'EMAHok'"),
        ('custom_hooks', dict(type='EMAHook'), "custom_hooks = {'type': 'EMAHook'}; expected a list"),
        ('visualizer', dict(type='Visualiser'), "visualizer.type: no visualizer is named 'Visualiser'"),
        ('train_dataloader.dataset.ann_fiel', 'a', 'dataset.ann_fiel: ChatDataset has no such setting'),
        ('train_dataloader.sampler', dict(type='Sampler'), 'train_dataloader.sampler.type: no sampler'),
        ('train_dataloader', 3, 'train_dataloader = 3; expected a dict'),
    ],
)  # fmt: skip
def test_a_wrong_value_is_told_by_its_key(tmp_path: Path, name: str, value: Any, expected: str) -> None:
    cfg = config(tmp_path)
    change(cfg, name, value)
    assert expected in problems(cfg)
    assert len(find_problems(cfg).wrong) == 1


@pytest.mark.parametrize(
    ('name', 'value'),
    [
        ('optim_wrapper.clip_grad', None),
        ('optim_wrapper.clip_grad', dict(max_norm=float('inf'), norm_type=1)),
        ('optim_wrapper.optimizer', dict(type='SGD', lr=1, momentum=0.9)),
        ('optim_wrapper.optimizer', dict(type='TorchAdafactor', lr=1e-3, eps=[None, 1e-3])),
        ('optim_wrapper.paramwise_cfg', dict(parts={'llm.lora': dict(lr_mult=0.1, weight_decay=0)})),
        ('param_scheduler', None),
        ('param_scheduler', dict(type='linear', warmup=0, min_lr_ratio=1)),
        ('param_scheduler', [dict(type='LinearLR', start_factor=0.1, begin=0, end=0.03),
                             dict(type='CosineAnnealingLR', begin=0.03, end=1, T_max=1, eta_min=0.0)]),
        ('val_cfg', dict(max_samples=0, max_new_tokens=1)),
        ('val_cfg.max_samples', None),
        ('seed', 2**32 - 1),
        ('seed', None),
        ('deepspeed', 'deepspeed_zero2_offload'),
        ('deepspeed', dict(zero_optimization=dict(stage=1))),
        ('default_hooks.answers', None),
        ('custom_hooks', [dict(type='EMAHook', priority='LOW')]),
        ('visualizer', dict(type='Visualizer', vis_backends=[dict(type='LocalVisBackend', name='w')])),
        ('train_dataloader.sampler', dict(group_by_length=True)),
        ('train_dataloader.collate', dict(type='PackCollator')),
        ('work_dir', 'work_dirs/not/there/yet'),
    ],
)  # fmt: skip
def test_a_right_value_is_no_problem(tmp_path: Path, monkeypatch: Any, name: str, value: Any) -> None:
    monkeypatch.chdir(tmp_path)
    cfg = config(tmp_path)
    change(cfg, name, value)
    assert find_problems(cfg).error is None


def test_all_of_them_at_once(tmp_path: Path) -> None:
    cfg = config(tmp_path)
    for name, value in (
        ('optim_wrapper.clip_grad.max_norm', -3),
        ('optim_wrapper.optimizer', dict(type='AdamX', lr=0)),
        ('param_scheduler', dict(type='cosin')),
        ('val_cfg.max_samples', -3),
        ('seed', -1),
        ('deepspeed', 'zero9'),
        ('visualizer', dict(type='Visualizer', vis_backends=[dict(type='NopeBackend')])),
    ):
        change(cfg, name, value)
    told = problems(cfg)
    assert told.startswith('9 problems')
    for text in ('max_norm', "'AdamX'", 'optimizer.lr = 0', "'cosin'", 'max_samples', 'seed', 'zero9', 'AdamX', 'Nope'):
        assert text in told, text


def test_an_unknown_backend_names_the_nearest(tmp_path: Path) -> None:
    backends = [dict(type='TensorboardVisBackend'), dict(type='WandVisBackend')]
    told = problems(config(tmp_path, visualizer=dict(type='Visualizer', vis_backends=backends)))
    assert "visualizer.vis_backends.1.type: no visualizer backend is named 'WandVisBackend'" in told
    assert "did you mean 'WandbVisBackend'" in told


def test_a_work_dir_that_cannot_be_one(tmp_path: Path) -> None:
    (tmp_path / 'file').write_text('')
    for place in (tmp_path / 'file', tmp_path / 'file' / 'run'):
        assert f'{tmp_path / "file"} is a file' in problems(config(place))


def test_our_schedules_come_first() -> None:
    told = next(schedule_problems({'type': 'cosin'}))
    assert "expected: one of ['constant', 'linear', 'cosine'], or of mmengine's" in told
    assert told.endswith("did you mean 'cosine'?")
    assert 'cosine' in next(schedule_problems({'type': 'zzz'}))
    assert next(schedule_problems([{'by_epoch': True}])).startswith('param_scheduler.0.type = None')


def test_the_best_of_what_no_validation_gives(tmp_path: Path) -> None:
    cfg = config(tmp_path, val_dataloader=dict(dataset=dict(ann_file=__file__)), val_cfg=dict(max_samples=0))
    for metric, change, message in (
        ('loss', {}, ''),
        ('exact_match', {}, 'val_cfg.max_samples = 0'),
        ('loss', {'val_interval': 0}, 'train_cfg.val_interval = 0'),
    ):
        cfg.train_cfg.update(change)
        cfg.default_hooks = dict(checkpoint=dict(save_best=metric))
        wrong = find_problems(cfg).wrong
        assert len(wrong) == bool(message)
        assert all(f'save_best = {metric!r}, but {message}' in problem for problem in wrong)


@pytest.mark.parametrize(
    ('setting', 'refused'),
    [('zero3', True), ('deepspeed_zero3_offload', True), (dict(zero_optimization=dict(stage=3)), True),
     ('z3.json', True), ('zero3_named.json', False), ('zero2', False), (dict(zero_optimization=dict(stage=2)), False)],
)  # fmt: skip
def test_qlora_with_zero3_however_it_is_written(tmp_path: Path, setting: Any, refused: bool) -> None:
    for name, stage in (('z3.json', 3), ('zero3_named.json', 2)):
        (tmp_path / name).write_text(json.dumps({'zero_optimization': {'stage': stage}}))
    value = str(tmp_path / setting) if str(setting).endswith('.json') else setting
    cfg = config(tmp_path, tune=dict(llm=dict(type='qlora')), deepspeed=value)
    assert any("'qlora' with ZeRO-3" in problem for problem in find_problems(cfg).wrong) == refused


@pytest.mark.parametrize(
    ('name', 'value', 'module', 'remedy'),
    [
        ('visualizer', dict(type='Visualizer', vis_backends=[dict(type='WandbVisBackend')]), 'wandb', "'mmft[track]'"),
        ('visualizer', dict(type='Visualizer', vis_backends=[dict(type='AimVisBackend')]), 'aim', 'aim'),
        ('deepspeed', 'zero2', 'deepspeed', "'mmft[deepspeed]'"),
        ('tune', dict(llm=dict(type='qlora')), 'bitsandbytes', "'mmft[qlora]'"),
    ],
)
def test_a_package_that_is_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: Any, module: str, remedy: str
) -> None:
    """No mistake of the config, but named with the rest, and what to type."""
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, 'find_spec', lambda n, *rest: None if n == module else find(n, *rest))
    cfg = config(tmp_path, optim_wrapper=dict(type='OptimWrapper', optimizer=dict(ADAM)), **{name: value})
    found = find_problems(cfg)
    assert found.wrong == []
    assert len(found.missing) == 1
    assert f'needs {module}, which is not installed' in found.missing[0]
    assert f'pip install {remedy}' in found.missing[0]
