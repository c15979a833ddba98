"""Models in 16 bits: built from nothing, trained with float32 parts, asked as they are, exported."""

from __future__ import annotations

import pytest
import torch
from mmengine.config import Config

import mmft
from mmft.engine import Runner
from mmft.engine.build import build_model
from mmft.export import convert
from mmft.models.precision import mixed_autocast
from tests.engine.tiny import write_tiny
from tests.export.tiny import picture

QUESTION = 'What dish is this?'


@pytest.fixture
def config(tmp_path):
    cfg = Config.fromfile(write_tiny(tmp_path / 'tiny'))
    cfg.work_dir, cfg.train_cfg, cfg.val_cfg, cfg.val_dataloader = str(tmp_path / 'run'), {'max_iters': 1}, None, None
    cfg.seed, cfg.optim_wrapper.paramwise_cfg = 3, None
    return cfg


def computed(model):
    """Buffers that are in no file."""
    stored = set(model.state_dict())
    return {name: buffer for name, buffer in model.named_buffers() if name not in stored}


@pytest.mark.parametrize('dtype', ['bfloat16', 'float16', 'float32'])
def test_a_model_from_nothing_computes_with_whole_tables(config, dtype):
    config.dtype = dtype
    torch.manual_seed(0)
    model = build_model(config).model
    kinds = {p.dtype for p in model.parameters() if not p.requires_grad}
    assert kinds == {getattr(torch, dtype)}
    found = computed(model)
    assert {'data_preprocessor.mean', 'data_preprocessor.std'} < found.keys()
    assert any('inv_freq' in name for name in found)
    config.dtype = 'float32'
    expected = computed(build_model(config).model)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_what_is_exported_is_what_was_trained(config, tmp_path):
    """Base 500 gives frequencies that bfloat16 does not hold."""
    config.dtype, config.tune = 'bfloat16', {'vision': 'frozen', 'projector': 'frozen', 'llm': {'type': 'lora', 'r': 2}}
    config.model.llm.rope_theta = 500.0
    runner = Runner.from_cfg(config)
    runner.train()
    convert(config, tmp_path / 'run' / 'iter_1.pth', tmp_path / 'out', check='none')
    written, _ = mmft.load(tmp_path / 'out')
    sample = runner.encoder.prompt(QUESTION, [picture()])
    pixels = [model.data_preprocessor.normalize(sample.pixel_values) for model in (runner.model, written)]
    assert torch.equal(*pixels)
    ids = sample.input_ids[None]
    positions = torch.arange(ids.shape[1])[None]
    tables = [
        model.llm.lm.get_decoder().rotary_emb(torch.zeros(1, dtype=torch.float32), positions)[0]
        for model in (runner.model, written)
    ]
    assert torch.equal(*tables)


@pytest.mark.parametrize(('dtype', 'tune'), [
    ('bfloat16', {'vision': 'frozen', 'projector': 'full', 'llm': {'type': 'lora', 'r': 4}}),
    ('bfloat16', {'vision': 'full', 'projector': 'full', 'llm': 'frozen'}),
    ('bfloat16', {'vision': 'frozen', 'projector': 'frozen', 'llm': 'full'}),
    ('float16', {'vision': {'type': 'lora', 'r': 2}, 'projector': 'full', 'llm': {'type': 'lora', 'r': 4}}),
    ('float32', {'vision': 'frozen', 'projector': 'full', 'llm': {'type': 'lora', 'r': 4}}),
])  # fmt: skip
def test_a_trained_model_answers_as_it_is(config, dtype, tune):
    config.dtype, config.tune, config.optim_wrapper.dtype = dtype, tune, dtype
    runner = Runner.from_cfg(config)
    runner.train()
    model = runner.model
    kinds = {p.dtype for p in model.parameters()}
    assert kinds == {torch.float32, getattr(torch, dtype)}
    answer = model.chat(runner.encoder, QUESTION, [picture()], max_new_tokens=6)
    if dtype != 'float32':
        with torch.autocast('cpu', dtype=getattr(torch, dtype)):
            assert model.chat(runner.encoder, QUESTION, [picture()], max_new_tokens=6) == answer
    assert isinstance(model.chat(runner.encoder, QUESTION, max_new_tokens=2), str)


def test_autocast_is_for_weights_of_two_kinds():
    def enabled(*kinds):
        model = torch.nn.ParameterList([torch.nn.Parameter(torch.zeros(1, dtype=kind)) for kind in kinds])
        with mixed_autocast(model, torch.device('cpu')):
            return torch.is_autocast_enabled('cpu') and torch.get_autocast_dtype('cpu')

    assert not enabled(torch.float32)
    assert not enabled(torch.bfloat16)
    assert not enabled(torch.bfloat16, torch.float16)
    assert enabled(torch.bfloat16, torch.float32) == torch.bfloat16
    assert enabled(torch.float32, torch.float16) == torch.float16
    with torch.autocast('cpu', dtype=torch.bfloat16):
        assert enabled(torch.float32, torch.float16) == torch.bfloat16, "the caller's"
