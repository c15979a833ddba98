"""What this process may use of its machine: in a container that is less than the machine has.

Limits are those of its control groups, from the process's own group up to the root that it sees: version 2
(``memory.max``, ``cpu.max``) and version 1 (``memory.limit_in_bytes``, ``cpu.cfs_quota_us``).
Source: Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst of the Linux kernel.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

__all__ = ['available_memory', 'cpu_count']

_GROUPS = Path('/sys/fs/cgroup')
_OWN = Path('/proc/self/cgroup')


def cpu_count() -> int:
    """CPU cores that this process may keep busy, at least 1: those it may run on, or fewer by its groups' quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
    for folder in _folders('cpu'):
        if (folder / 'cpu.max').is_file():
            quota, _, period = _read(folder / 'cpu.max').partition(' ')
        else:
            quota, period = _read(folder / 'cpu.cfs_quota_us'), _read(folder / 'cpu.cfs_period_us')
        if quota.isdecimal() and period.isdecimal() and int(period):  # 'max' and '-1': no limit
            cores = min(cores, -(-int(quota) // int(period)))
    return max(1, cores)


def available_memory() -> int:
    """Bytes that this process can still take: free on the machine, and left below the limit of each of its groups.

    Files in the page cache that nobody has used lately count as free, as the kernel gives them up first.
    """
    import psutil

    free = psutil.virtual_memory().available
    for folder in _folders('memory'):
        if (folder / 'memory.max').is_file():
            limit, used, cached = 'memory.max', 'memory.current', 'inactive_file'
        else:
            limit, used, cached = 'memory.limit_in_bytes', 'memory.usage_in_bytes', 'total_inactive_file'
        most = _read(folder / limit)
        if most.isdecimal():
            taken = int(_read(folder / used) or 0) - _stat(folder / 'memory.stat', cached)
            free = min(free, int(most) - taken)
    return max(0, free)


def _folders(controller: str) -> Iterator[Path]:
    """The folders of this process's groups that may limit ``controller``, its own first."""
    for line in _read(_OWN).splitlines():
        number, _, rest = line.partition(':')
        names, _, path = rest.partition(':')
        if number == '0' and not names:
            roots = [_GROUPS, _GROUPS / 'unified']
        elif controller in names.split(','):
            roots = [_GROUPS / names, _GROUPS / controller]
        else:
            continue
        for root in roots:
            own = root / path.lstrip('/')
            # In a container the path may be that of the host, where the root that is mounted is already the own group.
            for folder in (own, *own.parents):
                if folder.is_relative_to(root):
                    yield folder


def _read(file: Path) -> str:
    """What a file says, '' where it is not there."""
    with suppress(OSError):
        return file.read_text(encoding='ascii', errors='replace').strip()
    return ''


def _stat(file: Path, key: str) -> int:
    words = dict(line.split(None, 1) for line in _read(file).splitlines() if ' ' in line)
    return int(words.get(key, 0))
