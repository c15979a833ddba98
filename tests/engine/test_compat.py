"""Each workaround is still needed. When a test here fails, the library was mended: take its workaround out."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch.utils.data import DataLoader

from mmft.engine.compat import worker_error
from mmft.errors import DataError


@pytest.mark.skipif(torch.cuda.is_available(), reason='the trouble is with machines without a GPU')
def test_mmengine_still_asks_for_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    from mmengine.dist import init_dist

    for name, value in {'RANK': '0', 'LOCAL_RANK': '0', 'WORLD_SIZE': '1'}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises((RuntimeError, AssertionError), match=r'(?i)cuda|nvidia'):
        init_dist('pytorch', backend='gloo')


def test_mmengine_amp_still_asserts_a_gpu() -> None:
    from mmengine.optim import AmpOptimWrapper

    assert 'is_cuda_available()' in inspect.getsource(AmpOptimWrapper.__init__)


class _Broken:
    def __len__(self) -> int:
        return 1

    def __getitem__(self, i: int) -> None:
        raise DataError('no picture', file='a.jsonl', line=3, fix='add it')


def test_torch_still_buries_errors_of_workers() -> None:
    with pytest.raises(DataError) as caught:
        next(iter(DataLoader(_Broken(), num_workers=1)))
    assert str(caught.value).startswith('Caught DataError in DataLoader worker')
    assert str(worker_error(caught.value)) == 'a.jsonl:3: no picture\n  to do:    add it'
    plain = DataError('no picture')
    assert worker_error(plain) is plain
