"""``mmft`` with LMDeploy on the CPU: it sees two GPUs, and what it starts as ``lmdeploy`` is ``lmdeploy_server``.

python -m tests.serve.mmft_on_cpu serve DIR --backend pytorch --max-batch-size 4
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from mmft.cli.main import main
from mmft.serve import settings
from mmft.serve.backends import choose as backend
from mmft.serve.backends import launch


def on_cpu(command: Callable[..., list[str]]) -> Callable[..., list[str]]:
    def changed(*arguments: Any, **named: Any) -> list[str]:
        return ['tests.serve.lmdeploy_server' if word == 'lmdeploy' else word for word in command(*arguments, **named)]

    return changed


if __name__ == '__main__':
    for module in (backend, settings):
        module.gpu_count = lambda: 2
    launch.lmdeploy_command = on_cpu(launch.lmdeploy_command)
    launch.proxy_command = on_cpu(launch.proxy_command)
    sys.exit(main(sys.argv[1:]))
