"""``Child``: a server in a process of its own, which ends with this one, however this one ends.

Run as a program (``python -m mmft.serve.backends.child_process PARENT COMMAND...``) this file asks the kernel for that
and becomes the command.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence

import httpx

from mmft.errors import ServerError
from mmft.words import printable

__all__ = ['Child', 'end_with']

_PR_SET_PDEATHSIG = 1  # linux/prctl.h

# `python -m` and multiprocessing look for modules in the current directory first. It may be the model's: its author
# would only have to put an httpx.py there. Python 3.10 has no switch for that, and so gets another directory.
_SAFE_PATH = {'PYTHONSAFEPATH': '1'}
_CWD = None if sys.version_info >= (3, 11) else os.sep


class Child:
    """A backend's process.

    Args:
        name: for messages.
        command: what to run.
        url: where it will listen.
        env: changes to the environment.
        echo: show what it prints; its last lines are kept in any case.
        ready: the route that answers with status 200 when it is ready.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        url: str,
        env: Mapping[str, str] | None = None,
        echo: bool = False,
        ready: str = '/health',
    ) -> None:
        self.name, self.command, self.url, self.ready = name, list(command), url, ready
        self.env, self.echo = dict(env or {}), echo
        self.tail: deque[str] = deque(maxlen=40)
        self.process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start the process, in a session of its own: Ctrl-C is for the gateway, which then stops it.

        Raises:
            ServerError: the system does not start it.
        """
        launcher = [sys.executable, '-m', 'mmft.serve.backends.child_process', str(os.getpid())]
        self.tail.clear()
        try:
            self.process = await asyncio.create_subprocess_exec(
                *launcher, *self.command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT, env={**os.environ, **_SAFE_PATH, **self.env}, cwd=_CWD,
                start_new_session=True, limit=1 << 20,
            )  # fmt: skip
        except OSError as error:
            raise ServerError(
                f'cannot start the process of {self.name}: {error.strerror or error}',
                fix='if there are too many processes or open files (ulimit -u, ulimit -n), end some',
            ) from error
        self._reader = asyncio.ensure_future(self._read(self.process.stdout))

    async def _read(self, stream: asyncio.StreamReader) -> None:
        rest = b''
        while piece := await stream.read(1 << 16):
            # Progress bars rewrite their line with carriage returns; a line without end must not be kept whole.
            *lines, rest = (rest + piece).replace(b'\r', b'\n').split(b'\n')
            rest = rest[-4096:]
            for line in lines:
                if text := line.decode(errors='replace').rstrip():
                    self.tail.append(text)
                    if self.echo:
                        print(printable(f'[{self.name}] {text}'), file=sys.stderr, flush=True)

    async def wait_ready(self, seconds: float) -> None:
        """Wait until it answers.

        Raises:
            ServerError: it ended, or takes longer; with the last lines it printed.
        """
        end = time.monotonic() + seconds
        async with httpx.AsyncClient(trust_env=False, timeout=5.0) as client:
            while time.monotonic() < end:
                if self.process.returncode is not None:
                    await asyncio.wait({self._reader}, timeout=2)
                    raise ServerError(
                        f'{self.name} ended with status {self.process.returncode} while starting:\n{self.last_lines()}',
                        fix=f'its command was: {" ".join(self.command)}',
                    )
                with contextlib.suppress(httpx.HTTPError):
                    if (await client.get(self.url + self.ready)).status_code == 200:
                        return
                await asyncio.sleep(0.2)
        raise ServerError(
            f'{self.name} is not ready after {seconds:.0f} s:\n{self.last_lines()}',
            fix='give a large model more time: --start-timeout SECONDS',
        )

    def last_lines(self, count: int = 15) -> str:
        """What it printed last."""
        return '\n'.join(f'  | {line}' for line in list(self.tail)[-count:]) or '  | (nothing printed)'

    async def wait(self) -> int:
        """Wait for its end."""
        return await self.process.wait()

    async def stop(self, grace: float = 5.0) -> None:
        """End it and all that it started: by SIGTERM, and after ``grace`` seconds by SIGKILL."""
        # Its own, of this moment: meanwhile the process may be restarted.
        process, reader = self.process, self._reader
        if process is None:
            return
        for kill, seconds in ((signal.SIGTERM, grace), (signal.SIGKILL, 5.0)):
            # The group too when its leader has ended: LMDeploy's engine is a process of its own.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, kill)
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(process.wait(), seconds)
        if reader is not None:
            await asyncio.wait({reader}, timeout=2)
            reader.cancel()


def end_with(parent: int, number: int = signal.SIGTERM) -> None:
    """Have the kernel send this process a signal when its parent ends."""
    if sys.platform == 'linux':
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)
        if os.getppid() != parent:  # it ended before the line above
            os._exit(1)


def main(parent: int, command: list[str]) -> None:
    """Become ``command``, to be sent SIGTERM when ``parent`` ends."""
    end_with(parent)
    os.execvp(command[0], command)


if __name__ == '__main__':
    main(int(sys.argv[1]), sys.argv[2:])
