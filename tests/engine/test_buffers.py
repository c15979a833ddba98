"""Persistent buffers, such as a batch norm's running statistics, go wherever the weights go."""

from __future__ import annotations

import shutil

import pytest
import torch
from mmengine.config import Config
from torch import nn

import mmft
from mmft.engine import Runner
from mmft.errors import CheckpointError
from mmft.export import convert
from mmft.models.base import Projector, VisionTower
from mmft.models.buffers import moving_buffers, persistent_buffers, tensors_of
from mmft.registry import PROJECTORS, VISION_TOWERS
from tests.engine.tiny import write_tiny
from tests.export.tiny import logits, picture

RUNNING = 'vision.norm.running_mean'


class NormTower(VisionTower):
    """Patches through a convolution and a batch norm."""

    def __init__(self, hidden_size: int = 16, image_size: int = 28) -> None:
        super().__init__()
        self.hidden_size, self.image_size = hidden_size, image_size
        self.patches = nn.Conv2d(3, hidden_size, 7, 7)
        self.norm = nn.BatchNorm2d(hidden_size)
        self.blocks = nn.ModuleList([nn.Linear(hidden_size, hidden_size)])

    def num_patches(self, image_size):
        return (image_size // 7) ** 2

    def forward(self, pixel_values):
        return self.blocks[0](self.norm(self.patches(pixel_values)).flatten(2).transpose(1, 2))

    @property
    def layers(self):
        return self.blocks


class NormProjector(Projector):
    """A linear map after a batch norm that has no parameters, with a constant that is in no file."""

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(in_dim, affine=False)
        self.linear = nn.Linear(in_dim, out_dim)
        self.register_buffer('scale', torch.full((out_dim,), 0.5), persistent=False)

    def num_tokens(self, num_patches):
        return num_patches

    def forward(self, x):
        return self.linear(self.norm(x.transpose(1, 2)).transpose(1, 2)) * self.scale


@pytest.fixture
def config(tmp_path, monkeypatch):
    """A run of four steps whose tower and projector hold batch norms."""
    VISION_TOWERS.import_from_location()
    PROJECTORS.import_from_location()
    monkeypatch.setitem(VISION_TOWERS.module_dict, 'NormTower', NormTower)
    monkeypatch.setitem(PROJECTORS.module_dict, 'NormProjector', NormProjector)
    cfg = Config.fromfile(write_tiny(tmp_path / 'tiny'))
    cfg.model.vision, cfg.model.projector = {'type': 'NormTower'}, {'type': 'NormProjector'}
    cfg.tune = {'vision': 'full', 'projector': 'full', 'llm': {'type': 'lora', 'r': 4}}
    cfg.optim_wrapper.update(dtype=None, accumulative_counts=1, paramwise_cfg=None)
    cfg.train_cfg, cfg.val_cfg, cfg.val_dataloader = {'max_iters': 4}, None, None
    cfg.default_hooks.update(checkpoint={'interval': 2, 'by_epoch': False})
    cfg.seed = 3
    return cfg


def train(cfg, folder, **changes):
    """Train; the last checkpoint, and the runner."""
    cfg = Config(cfg.to_dict())
    cfg.work_dir = str(folder)
    cfg.merge_from_dict(changes)
    runner = Runner.from_cfg(cfg)
    runner.train()
    return folder / 'iter_4.pth', runner


def state_of(path):
    return torch.load(path, weights_only=True)['state_dict']


def check_same(model, directory, encoder):
    """A directory holds the very model."""
    read, read_encoder = mmft.load(directory)
    ours, theirs = tensors_of(model.eval()), tensors_of(read)
    for name, value in persistent_buffers(model).items():
        assert torch.equal(theirs[name], value), name
        assert theirs[name].dtype == value.dtype
    assert not any(buffer.is_meta for buffer in read.buffers())
    assert torch.equal(read.projector.scale, model.projector.scale)
    if ours.keys() == theirs.keys():
        images = [picture(60, 40)]
        assert torch.equal(logits(read, read_encoder, images), logits(model, encoder, images))


def test_a_resumed_run_is_uninterrupted(config, tmp_path):
    first, runner = train(config, tmp_path / 'whole')
    buffers = persistent_buffers(runner.model)
    assert buffers.keys() == moving_buffers(runner.model).keys()
    assert buffers['vision.norm.num_batches_tracked'] == 4
    assert buffers[RUNNING].abs().sum() > 0
    (tmp_path / 'again').mkdir()
    shutil.copy(tmp_path / 'whole' / 'iter_2.pth', tmp_path / 'again')
    second, _ = train(config, tmp_path / 'again', resume=True)
    one, other = state_of(first), state_of(second)
    assert one.keys() == other.keys() > buffers.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_trained_exported_and_read(config, tmp_path):
    config.tune = dict.fromkeys(('vision', 'projector', 'llm'), 'full')
    checkpoint, runner = train(config, tmp_path / 'run')
    for check in ('full', 'weights'):
        convert(config, checkpoint, tmp_path / check, 'native', check=check)
        check_same(runner.model, tmp_path / check, runner.encoder)
    convert(config, checkpoint, tmp_path / 'half', 'native', dtype='bfloat16')
    half = persistent_buffers(mmft.load(tmp_path / 'half')[0])
    assert half['vision.norm.num_batches_tracked'] == 4  # whole numbers stay what they are
    assert (half[RUNNING].dtype, half['vision.norm.num_batches_tracked'].dtype) == (torch.bfloat16, torch.int64)
    assert (
        persistent_buffers(mmft.load(tmp_path / 'run' / '..' / 'half', dtype='float16')[0])[RUNNING].dtype
        == torch.float16
    )


def test_of_frozen_parts_they_stand_still_and_are_kept(config, tmp_path):
    checkpoint, _ = train(config, tmp_path / 'run')
    convert(config, checkpoint, tmp_path / 'base', 'native')
    config.merge_from_dict({'pretrained': str(tmp_path / 'base'), 'tune': {'vision': 'frozen'}})
    second, runner = train(config, tmp_path / 'second')
    kept = persistent_buffers(runner.model)
    assert torch.equal(kept[RUNNING], state_of(checkpoint)[RUNNING])  # the base's
    assert RUNNING not in state_of(second)
    assert 'projector.norm.running_mean' in state_of(second)
    convert(config, second, tmp_path / 'out', 'native', check='full')
    check_same(runner.model, tmp_path / 'out', runner.encoder)
    # Frozen and in no base: from ``init_from``, and in the checkpoint, which then stands alone.
    config.merge_from_dict({'pretrained': None, 'init_from': str(checkpoint)})
    third, runner = train(config, tmp_path / 'third')
    assert torch.equal(state_of(third)[RUNNING], kept[RUNNING])
    assert 'projector.norm.running_mean' not in torch.load(third, weights_only=True)['meta']['initialised']
    convert(config, third, tmp_path / 'alone', 'native', check='full')
    check_same(runner.model, tmp_path / 'alone', runner.encoder)


def test_what_lacks_them_says_so(config, tmp_path, caplog):
    checkpoint, runner = train(config, tmp_path / 'run')
    content = torch.load(checkpoint, weights_only=True)
    buffers = persistent_buffers(runner.model)
    content['state_dict'] = {name: value for name, value in content['state_dict'].items() if name not in buffers}
    torch.save(content, checkpoint)  # as mmft 0.1 wrote it
    with pytest.raises(CheckpointError, match=f'(?s){len(buffers)} tensors missing.*running_mean'):
        convert(config, checkpoint, tmp_path / 'out', 'native')
    _, resumed = train(config, tmp_path / 'run', resume=True, train_cfg={'max_iters': 4})
    assert resumed.iter == 4
    assert f'{len(buffers)}, such as projector.norm.num_batches_tracked' in caplog.text
