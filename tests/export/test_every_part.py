"""Every registered part through the library's own path: config, a training step, checkpoint, model directory, load.

Each tower, projector, language model and merge that is registered stands in a cell at least; a new part joins unasked.
(The whole matrix, in memory, is in ``tests/models/test_contracts.py``.)
"""

from __future__ import annotations

import json
from itertools import cycle, islice

import pytest
import torch
from mmengine.config import Config

import mmft
from mmft.data.text.tokenizers import load_tokenizer
from mmft.engine import Runner
from mmft.engine.judging.config import validate_config
from mmft.export import convert
from mmft.registry import MERGES
from tests.engine.tiny import TOKENIZER, write_tiny
from tests.export.tiny import logits, picture
from tests.models.parts import CONNECTORS, DL, LLMS, SAME_WIDTH, SIDE, TOWERS, projector_config, small_llm, tower_config

COUNT = max(len(TOWERS), len(CONNECTORS), len(LLMS))
CELLS = [(*cell, None) for cell in islice(zip(cycle(TOWERS), cycle(CONNECTORS), cycle(LLMS), strict=False), COUNT)]
CELLS += [('CLIP', 'MLP', 'Llama', merge) for merge in MERGES.names()]


@pytest.fixture(scope='module')
def tiny(tmp_path_factory):
    """A config file and its pictures."""
    return write_tiny(tmp_path_factory.mktemp('tiny'))


def cell_config(tiny, folder, tower, projector, llm, merge):
    cfg = Config.fromfile(tiny)
    vision = tower_config(tower)
    width = mmft.registry.VISION_TOWERS.build(dict(vision)).hidden_size if projector in SAME_WIDTH else DL
    cfg.model = {
        'type': 'VLM',
        'vision': vision,
        'projector': projector_config(projector),
        'llm': small_llm(llm, width, vocab_size=len(load_tokenizer(TOKENIZER)) + 8),
        **({'merge': {'type': merge}} if merge else {}),
    }
    kind = 'AnyResTiler' if merge else 'Resize'
    cfg.encoder.image_processor = {'type': kind, 'tile_size': SIDE}
    cfg.encoder.max_length = 1024
    cfg.tune = dict.fromkeys(('vision', 'projector', 'llm'), 'full')
    cfg.optim_wrapper.update(dtype=None, accumulative_counts=1, paramwise_cfg=None)
    cfg.train_cfg, cfg.val_cfg, cfg.val_dataloader = {'max_iters': 1}, None, None
    cfg.work_dir = str(folder / 'work')
    return cfg


def test_the_cells_cover_the_registries():
    towers, connectors, llms, merges = (set(names) for names in zip(*CELLS, strict=True))
    assert (towers, connectors, llms, merges) == (set(TOWERS), set(CONNECTORS), set(LLMS), {None, *MERGES.names()})


@pytest.mark.parametrize(('tower', 'projector', 'llm', 'merge'), CELLS)
def test_from_a_config_to_a_directory_that_answers_the_same(tower, projector, llm, merge, tiny, tmp_path):
    cfg = cell_config(tiny, tmp_path, tower, projector, llm, merge)
    validate_config(cfg)
    runner = Runner.from_cfg(cfg)
    before = {name: parameter.detach().clone() for name, parameter in runner.model.named_parameters()}
    runner.train()
    model, encoder = runner.model.eval(), runner.encoder
    moved = {name.split('.')[0] for name, parameter in model.named_parameters() if not parameter.equal(before[name])}
    assert moved >= {name.split('.')[0] for name in before}

    (checkpoint,) = (tmp_path / 'work').glob('iter_*.pth')
    made = convert(cfg, checkpoint, tmp_path / 'out', 'native', check='full')
    assert made.measured['difference'] == 0
    json.loads((tmp_path / 'out' / 'config.json').read_text())
    read, read_encoder = mmft.load(tmp_path / 'out')
    assert read_encoder.image_processor.to_dict() == encoder.image_processor.to_dict()
    images = [picture(130, 60)]
    assert torch.equal(logits(read, read_encoder, images), logits(model, encoder, images))
    assert ids(read, read_encoder, images) == ids(model, encoder, images)


def ids(model, encoder, images):
    """What it answers."""
    sample = encoder.prompt('What dish is this?', images)
    arranged = {}
    if sample.image_grids:
        arranged = {'image_sizes': torch.tensor(sample.image_sizes), 'image_grids': torch.tensor(sample.image_grids)}
    made = model.generate(
        sample.input_ids[None], sample.pixel_values, max_new_tokens=5, do_sample=False, eos_token_id=None,
        pad_token_id=0, **arranged,
    )  # fmt: skip
    assert made.shape == (1, 5)
    return made.tolist()
