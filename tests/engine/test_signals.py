"""A run that is told to end says what there is to continue from."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from mmft.engine.signals import ENDING, explained_end
from tests.engine.test_checkpoint import checkpoint


class Ended(BaseException):
    """In place of the end of the process."""


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def end(status: int) -> None:
        raise Ended(status)

    monkeypatch.setattr(os, '_exit', end)
    # Under nohup, SIGHUP is ignored from the start.
    before = {number: signal.signal(number, signal.SIG_DFL) for number in ENDING}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize('number', ENDING)
def test_a_signal_is_explained_and_gives_its_status(
    number: int, tmp_path: Path, caplog: pytest.LogCaptureFixture, ends: None
) -> None:
    with pytest.raises(Ended) as caught, explained_end(tmp_path):
        signal.raise_signal(number)
    assert caught.value.args == (128 + number,)
    assert f'ended by {signal.Signals(number).name}: nothing of this run is saved yet' in caplog.text
    assert signal.getsignal(number) is signal.SIG_DFL


def test_the_last_checkpoint_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    checkpoint(tmp_path, 4, '1-aa')
    with pytest.raises(KeyboardInterrupt), explained_end(tmp_path):
        raise KeyboardInterrupt
    assert f'{tmp_path}/iter_4.pth; the same command with --resume continues from it' in caplog.text


def test_what_cannot_be_said_does_not_keep_it_alive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends: None
) -> None:
    def half_written(*_: object) -> None:
        raise RuntimeError('reentrant call inside <_io.BufferedWriter>')

    monkeypatch.setattr('mmft.engine.signals.find_last', half_written)
    with pytest.raises(Ended), explained_end(tmp_path):
        signal.raise_signal(signal.SIGTERM)


def test_what_is_handled_or_ignored_stays_so(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with explained_end(tmp_path):
            signal.raise_signal(signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
