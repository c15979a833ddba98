"""The command ``lmdeploy`` with the engine on the CPU: its own command line, api_server, proxy and preprocessing.

    python -m tests.serve.lmdeploy_server serve api_server DIR --backend pytorch --max-batch-size 4 ...

takes the place of ``lmdeploy serve api_server DIR ...``. ``Servers`` starts several at the price of one import.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from types import TracebackType
from typing import Any

from mmft.ports import free_port
from mmft.serve.backends.child_process import end_with

__all__ = ['Servers', 'run']

ROOT = Path(__file__).parents[2]


class Servers:
    """``lmdeploy serve api_server`` for several directories, each in a process of its own; they end with this one.

    Args:
        logs: a directory for what they print.
    """

    def __init__(self, logs: Path) -> None:
        self.logs, self.urls = logs, {}
        logs.mkdir(parents=True, exist_ok=True)
        with open(logs / 'start.log', 'wb') as log:
            self.starter = subprocess.Popen(
                [sys.executable, '-m', __name__], cwd=ROOT, stdin=subprocess.PIPE, stdout=log, stderr=log, text=True
            )

    def start(self, name: str, directory: Path, *options: str) -> None:
        """Start one, and do not wait for it."""
        port = free_port()
        argv = ['serve', 'api_server', str(directory), '--backend', 'pytorch', '--max-batch-size', '4',
                '--server-name', '127.0.0.1', '--server-port', str(port), '--model-name', name, *options]  # fmt: skip
        self.starter.stdin.write(json.dumps([str(self.logs / f'{name}.log'), *argv]) + '\n')
        self.starter.stdin.flush()
        self.urls[name] = f'http://127.0.0.1:{port}'

    def wait(self, name: str, seconds: float = 300) -> str:
        """The address of one, once it is healthy."""
        url, end = self.urls[name], time.monotonic() + seconds
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        while time.monotonic() < end and self.starter.poll() is None:
            with contextlib.suppress(OSError), direct.open(f'{url}/health', timeout=10) as answer:
                if answer.status == 200:
                    return url
            time.sleep(0.1)
        printed = ''.join(file.read_text(errors='replace')[-3000:] for file in
                          (self.logs / 'start.log', self.logs / f'{name}.log') if file.exists())  # fmt: skip
        raise AssertionError(f'{name} does not answer; it printed:\n{printed}')

    def __enter__(self) -> Servers:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        self.starter.stdin.close()  # which tells it to end the others
        self.starter.wait(timeout=60)


class Engine:
    """What LMDeploy's ``Engine`` is to its ``AsyncEngine``: one model, one forward at a time, greedy."""

    def __init__(self, path: str, config: Any, trust: bool) -> None:
        from lmdeploy.messages import ScheduleMetrics

        from tests.serve.lmdeploy_cpu import Served

        self.engine_config, self.metrics = config, ScheduleMetrics()
        self.served, self.busy = Served(Path(path), trust), threading.Lock()
        assert self.served.never_written == [], self.served.never_written

    def create_instance(self, *_: Any) -> Instance:
        return Instance(self)

    def get_schedule_metrics(self) -> Any:
        return self.metrics

    async def get_health_status(self) -> dict[str, Any]:
        self.metrics.scheduler_tick += 1
        return {'alive': True, 'message': '', 'schedule_metrics': self.metrics}

    def start_loop(self) -> bool:
        return True

    def end_session(self, _: int) -> bool:
        return True

    def close(self) -> None:
        """Nothing is held."""


class Instance:
    """Answers one conversation at a time."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.stopped = engine, False

    async def async_cancel(self, _: int) -> None:
        self.stopped = True

    async def async_stream_infer(
        self, session_id: int, input_ids: list[int], multimodal: Any = None, gen_config: Any = None, **_: Any
    ) -> AsyncIterator[Any]:
        """One ``EngineOutput`` per token; the last one is a stop token, or as many as asked for have been made."""
        from lmdeploy.messages import EngineOutput, ResponseType

        self.stopped, served = False, self.engine.served
        ids, pictures = served.take_in({'input_ids': input_ids, 'multimodal': multimodal})
        room, history = served.room(), 0
        stop = set() if gen_config.ignore_eos else set(gen_config.stop_token_ids or ())
        for left in reversed(range(gen_config.max_new_tokens)):
            token = await asyncio.to_thread(self._next, ids, history, pictures, room)
            history, ids, pictures = history + len(ids), [token], None
            last = token in stop or left == 0
            status = ResponseType.CANCEL if self.stopped else ResponseType.FINISH if last else ResponseType.SUCCESS
            yield EngineOutput(status, [token])
            if last or self.stopped:
                return

    def _next(self, ids: list[int], history: int, pictures: Any, room: Any) -> int:
        with self.engine.busy:  # LMDeploy keeps the context of a step in a global
            return int(self.engine.served.step(ids, history, pictures, room)[-1].argmax())


def prepare() -> None:
    """Import LMDeploy and put the engine above where its own would be built."""
    from lmdeploy.cli import entrypoint  # noqa: F401
    from lmdeploy.serve.core.async_engine import AsyncEngine
    from lmdeploy.serve.openai import api_server  # noqa: F401

    import tests.serve.lmdeploy_cpu  # noqa: F401  (sets the environment before LMDeploy is imported)

    def build(self: Any, model_path: str, backend_config: Any = None, trust_remote_code: bool = False, **_: Any) -> Any:
        return Engine(model_path, backend_config, trust_remote_code)

    AsyncEngine._build_pytorch = build


def run(argv: list[str]) -> None:
    """``lmdeploy`` with these arguments."""
    from lmdeploy.cli import run as lmdeploy

    sys.argv = ['lmdeploy', *argv]
    lmdeploy()


def serve_lines() -> None:
    """Start a server for every line of stdin, ``[log, *arguments]`` as JSON; at its end, end them."""
    children, parent = [], os.getpid()
    prepare()
    for line in sys.stdin:
        log, *argv = json.loads(line)
        child = os.fork()
        if child:
            children.append(child)
            continue
        end_with(parent, signal.SIGKILL)
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for number in (1, 2):
            os.dup2(out, number)
        os.close(0)
        try:
            run(argv)
        finally:
            sys.stderr.flush()
            os._exit(1)
    for child in children:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


if __name__ == '__main__':
    if len(sys.argv) == 1:
        serve_lines()
    else:
        prepare()
        run(sys.argv[1:])
