"""A run that is told to end says what there is to continue from."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from mmft.engine.signals import ENDING, Stopped, explained_end
from tests.engine.test_checkpoint import checkpoint


@pytest.mark.parametrize('number', ENDING)
def test_a_signal_is_explained_and_gives_its_status(
    number: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(Stopped) as caught, explained_end(tmp_path):
        signal.raise_signal(number)
    assert caught.value.code == 128 + number
    assert f'ended by {signal.Signals(number).name}: nothing of this run is saved yet' in caplog.text
    assert signal.getsignal(number) is signal.SIG_DFL


def test_the_last_checkpoint_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    checkpoint(tmp_path, 4, '1-aa')
    with pytest.raises(KeyboardInterrupt), explained_end(tmp_path):
        raise KeyboardInterrupt
    assert f'{tmp_path}/iter_4.pth; the same command with --resume continues from it' in caplog.text


def test_what_is_handled_or_ignored_stays_so(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with explained_end(tmp_path):
            signal.raise_signal(signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
