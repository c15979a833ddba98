"""What a container leaves of its machine: control groups of both versions, as the kernel writes them."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from mmft import machine
from mmft.export.gate import choose_check
from mmft.machine import available_memory, cpu_count

GIB = 2**30
UNLIMITED = '9223372036854771712'  # of version 1


@pytest.fixture
def groups(tmp_path, monkeypatch):
    """A machine of 16 cores and 512 GiB, 400 of them free, with the groups that a test writes."""
    monkeypatch.setattr(machine, '_GROUPS', tmp_path / 'groups')
    monkeypatch.setattr(machine, '_OWN', tmp_path / 'own')
    monkeypatch.setattr(os, 'sched_getaffinity', lambda pid: set(range(16)), raising=False)
    monkeypatch.setattr('psutil.virtual_memory', lambda: SimpleNamespace(available=400 * GIB))

    def write(own: str, files: dict[str, str]) -> None:
        (tmp_path / 'own').write_text(own)
        for name, text in files.items():
            path = tmp_path / 'groups' / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f'{text}\n')

    return write


def v2(folder: str, most: str = 'max', used: int = 0, cached: int = 0, cpu: str = 'max 100000') -> dict[str, str]:
    return {
        f'{folder}memory.max': most,
        f'{folder}memory.current': str(used),
        f'{folder}memory.stat': f'anon 5\nfile {cached * 2}\ninactive_file {cached}\nactive_file {cached}',
        f'{folder}cpu.max': cpu,
    }


def v1(folder: str, most: str = UNLIMITED, used: int = 0, cached: int = 0, quota: str = '-1') -> dict[str, str]:
    return {
        f'memory/{folder}memory.limit_in_bytes': most,
        f'memory/{folder}memory.usage_in_bytes': str(used),
        f'memory/{folder}memory.stat': f'cache 7\ninactive_file 1\ntotal_inactive_file {cached}',
        f'cpu,cpuacct/{folder}cpu.cfs_quota_us': quota,
        f'cpu,cpuacct/{folder}cpu.cfs_period_us': '100000',
    }


V1 = '4:memory:{0}\n3:cpu,cpuacct:{0}\n1:name=systemd:{0}\n0::/\n'
PLACES = {
    # what /proc/self/cgroup says, the files, gigabytes, cores
    'no groups': ('', {}, 400, 16),
    'v2, no limit': ('0::/\n', v2(''), 400, 16),
    'v2, in a container': ('0::/\n', v2('', str(32 * GIB), 12 * GIB, 4 * GIB, '250000 100000'), 24, 3),
    'v2, of systemd': (
        '0::/user.slice/mine\n',
        {**v2('user.slice/', str(8 * GIB), 3 * GIB, cpu='50000 100000'), **v2('user.slice/mine/', used=GIB)},
        5,
        1,
    ),
    'v2, more than there is': ('0::/\n', v2('', str(900 * GIB), cpu='6400000 100000'), 400, 16),
    'v2, nothing left': ('0::/\n', v2('', str(GIB), 2 * GIB), 0, 16),
    'v2, odd files': ('0::/\nx\n', {'memory.max': '', 'cpu.max': 'x y', 'memory.stat': 'inactive_file'}, 400, 16),
    'v1': (V1.format('/a/b'), v1('a/b/', str(32 * GIB), 2 * GIB, GIB, '400000'), 31, 4),
    'v1, its parent': (V1.format('/a/b'), {**v1('a/', str(16 * GIB), quota='100000'), **v1('a/b/')}, 16, 1),
    'v1, the path of the host': (V1.format('/docker/0a1b'), v1('', str(32 * GIB), 8 * GIB, 0, '150000'), 24, 2),
    'v1, no limit': (V1.format('/'), v1(''), 400, 16),
    'both': (V1.format('/a'), {**v1('a/', str(32 * GIB)), **v2('unified/', cpu='200000 100000')}, 32, 2),
}


@pytest.mark.parametrize('place', PLACES)
def test_the_smallest_limit_counts(groups, place):
    own, files, gigabytes, cores = PLACES[place]
    groups(own, files)
    assert available_memory() == gigabytes * GIB
    assert cpu_count() == cores


def test_the_gate_of_an_export_fits_into_its_container(groups):
    parameters = 8_000_000_000  # two copies in float32 are 64 GB
    groups('0::/\n', v2(''))
    assert choose_check('auto', parameters) == 'full'
    groups('0::/\n', v2('', str(32 * GIB)))
    assert choose_check('auto', parameters) == 'weights'
    assert choose_check('full', parameters) == 'full'


def test_this_machine_has_some():
    import psutil

    assert 1 <= cpu_count() <= os.cpu_count()
    assert 0 < available_memory() <= psutil.virtual_memory().total


@pytest.mark.parametrize('name', ['sched_getaffinity', 'os.cpu_count', 'virtual_memory'])
def test_nothing_else_asks_the_machine(name):
    package = Path(machine.__file__).parent
    assert [path.name for path in package.rglob('*.py') if name in path.read_text(encoding='utf-8')] == ['machine.py']
