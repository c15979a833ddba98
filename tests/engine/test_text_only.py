"""Batches without a picture behind a frozen language model: no gradient, no step, no error, and all of it said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mmft.data.batches.collate import PadCollator
from mmft.errors import TrainingError
from tests.engine.arranged import Pictures, runner, tiny_model
from tests.engine.test_hooks import log_of


def batch_of(model: torch.nn.Module, *numbers: int) -> dict:
    batch = PadCollator()([Pictures()[i] for i in numbers])
    batch.pop('meta')
    return model.data_preprocessor(batch)


def test_a_loss_without_pictures_has_gradients_of_zero() -> None:
    model = tiny_model(frozen=True).train()
    model(**batch_of(model, 0))['loss'].backward()
    grads = [p.grad for p in model.parameters() if p.requires_grad]
    assert grads
    assert all((grad == 0).all() for grad in grads)


def test_features_too_large_to_be_summed_make_no_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    """In float16 the sum of a tile's features is soon inf, and 0 * inf nan."""
    model = tiny_model(frozen=True).train()
    features = type(model).picture_tokens
    monkeypatch.setattr(type(model), 'picture_tokens', lambda self, *args: features(self, *args) + 3e38)
    loss = model(**batch_of(model, 0))['loss']
    loss.backward()
    assert torch.isfinite(loss)
    assert not any(torch.isnan(p.grad).any() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize('dtype', [None, 'float16'])
def test_a_step_without_pictures_moves_nothing(tmp_path: Path, dtype: str | None) -> None:
    """Nor does weight decay, nor the momentum of steps before."""
    run = runner(str(tmp_path), 1, frozen=True, optim_wrapper={'dtype': dtype, 'loss_scale': 8.0}, param_scheduler=None)
    loop, seen = run.train_loop, []
    step = loop.train_step

    def watched(group: list[dict]) -> dict[str, float]:
        before = {name: p.detach().clone() for name, p in run.model.named_parameters()}
        outputs = step(group)
        moved = any(not torch.equal(before[name], p) for name, p in run.model.named_parameters())
        seen.append((group[0]['pixel_values'] is not None, moved))
        return outputs

    loop.train_step, loop.max_iters = watched, 4
    run.train()
    assert seen == [(False, False), (True, True), (True, True), (False, False)]
    log = log_of(tmp_path)
    assert '3 of 8 samples have no picture' in log
    assert '2 of 4 micro-batches had no picture and gave no gradient' in log


def test_data_without_any_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pictures, 'num_images', np.zeros(8, int))
    with pytest.raises(TrainingError, match=r'none of the 8 samples has a picture.*projector'):
        runner(str(tmp_path / 'frozen'), 1, frozen=True).train()
    runner(str(tmp_path / 'open'), 8).train()
    assert 'only the language model learns' in log_of(tmp_path / 'open')
