"""Every language-model family in every layout that it names: a training, its export, and what ``mmft.load`` reads."""

from __future__ import annotations

from functools import partial

import pytest
import torch

import mmft
from mmft.checkpoint import TensorDirectory, read_layout
from mmft.export import convert
from mmft.layouts import LAYOUT_NAMES
from mmft.models.language.family import families
from tests.export import tiny
from tests.export.test_llava_hf import without_head_bias
from tests.export.tiny import LORA, logits, make_base, make_checkpoint, make_encoder, model_config, picture
from tests.export.tiny_llava import llava_config, llava_encoder

NAMES = {kind.__module__.split('.')[-1]: name for name, kinds in LAYOUT_NAMES.items() for kind in kinds}
CASES = [(layout, kind) for kind, family in families().items() for layout in family.layouts]


def parts(layout, kind):
    """Model dict and encoder that only this layout of its name can hold."""
    if layout.startswith('internvl'):
        return model_config(kind), make_encoder(kind)
    tower = 'DINOv2' if layout == 'tinyllava' else 'CLIP'  # LLaVA's own has CLIP alone
    processor = {'type': 'CenterCrop', 'tile_size': 56}
    return llava_config(kind, tower), llava_encoder(kind, processor)


@pytest.mark.parametrize(('layout', 'kind'), CASES, ids=map('-'.join, CASES))
def test_there_and_back(layout, kind, tmp_path, monkeypatch):
    if kind == 'Phi' and layout == 'llava_hf':  # whose classes have no bias at the head
        monkeypatch.setattr(tiny, 'random_model', partial(without_head_bias, tiny.random_model))
    config, encoder = parts(layout, kind)
    cfg = {'model': config, 'pretrained': str(make_base(tmp_path / 'base', config, 'native')), 'tune': LORA}
    path, model = make_checkpoint(tmp_path / 'iter_1.pth', cfg, encoder)
    convert(cfg, path, tmp_path / 'out', NAMES[layout], check='weights')

    read, tensors = read_layout(tmp_path / 'out'), TensorDirectory(tmp_path / 'out')
    assert type(read).__module__ == f'mmft.layouts.{layout}'
    ours: dict[str, torch.Tensor] = {}
    for step in read.to_ours(tensors):
        ours |= step(tensors.__getitem__)
    back: dict[str, torch.Tensor] = {}
    for step in read.to_theirs(ours):
        back |= step(ours.__getitem__)
    assert set(back) == set(tensors)
    assert all(torch.equal(back[name], tensors[name]) for name in back)

    again, its_encoder = mmft.load(tmp_path / 'out')
    assert its_encoder.template.name == encoder.template.name
    got, want = logits(again, its_encoder, [picture()]), logits(model, encoder, [picture()])
    torch.testing.assert_close(got[:, : want.shape[1]], want, atol=1e-5, rtol=1e-5)
