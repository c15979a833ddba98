"""The processes that a server is made of."""

from __future__ import annotations

import pytest

from mmft.serve.backends import launch
from mmft.serve.backends.choose import Choice
from mmft.serve.backends.directory_check import ServedDirectory
from mmft.serve.backends.launch import build_fleet
from mmft.serve.settings import ServeSettings


@pytest.mark.parametrize(('replicas', 'threads'), [(1, None), (2, '4'), (3, '2'), (99, '1')])
def test_replicas_on_a_cpu_share_its_cores(monkeypatch, tmp_path, replicas, threads):
    monkeypatch.delenv('OMP_NUM_THREADS', raising=False)
    monkeypatch.setattr(launch.os, 'sched_getaffinity', lambda pid: set(range(8)))
    settings = ServeSettings(tmp_path, replicas=replicas, device='cpu')
    fleet = build_fleet(settings, ServedDirectory(tmp_path), Choice('transformers', ''), 'food', print)
    assert [member.child.env.get('OMP_NUM_THREADS') for member in fleet.members] == [threads] * replicas
    monkeypatch.setenv('OMP_NUM_THREADS', '5')  # whoever says so, has it so
    fleet = build_fleet(settings, ServedDirectory(tmp_path), Choice('transformers', ''), 'food', print)
    assert all('OMP_NUM_THREADS' not in member.child.env for member in fleet.members)
