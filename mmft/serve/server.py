"""``mmft serve``: a directory checked, a backend chosen and started, the gateway in front of it."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mmft.errors import ServerError
from mmft.ports import bound_socket, reuse_address
from mmft.serve.backends.choose import Choice, choose_backend
from mmft.serve.backends.directory_check import HF_NATIVE, ServedDirectory, check_directory
from mmft.serve.backends.servable import language_config, servable
from mmft.serve.settings import ServeSettings, check_fit, check_settings, gpus
from mmft.words import printable

__all__ = ['ServeSettings', 'serve']


def serve(settings: ServeSettings, log: Callable[[str], None] | None = None) -> int:
    """Serve until SIGINT or SIGTERM.

    Args:
        log: called with a line for each event; None: standard output.

    Returns:
        The exit status: 0 after SIGTERM, 130 after SIGINT.

    Raises:
        ConfigError: the directory cannot be served, or not in this way; everything that is wrong with it.
        ServerError: the port is taken, or the backend does not start or stay.
    """
    log = log or (lambda line: print(printable(line), flush=True))
    from mmft.files.reading import reading

    check_settings(settings)
    # First of all, so that no model is loaded before the port turns out to be taken.
    with contextlib.closing(bound_socket(settings.host, settings.port)) as listener:
        directory, only_mmft = servable(settings, log)
        problems = [] if only_mmft else check_directory(directory)
        with reading(f'{directory}: one of its JSON files'):
            if only_mmft:
                choice = Choice('mmft', f'mmft itself, since {only_mmft}')
                config = language_config(directory, settings.base)
            else:
                choice = choose_backend(directory, settings.backend, gpus(settings), problems)
                config = ServedDirectory(directory).config
            log(f'backend: {choice.reason}')
            check_fit(settings, choice, config)
        for problem in problems:
            if not problem.stops and choice.name != 'transformers':
                log(f'note: {problem.what} ({problem.fix})')
        return asyncio.run(_Server(settings, directory, choice, config, listener, log).run())


class _Server:
    """One run."""

    def __init__(
        self, settings: ServeSettings, directory: Path, choice: Choice, config: Mapping[str, Any],
        listener: socket.socket, log: Callable[[str], None],
    ) -> None:  # fmt: skip
        self.settings, self.directory, self.choice, self.config = settings, directory, choice, config
        self.listener, self.log = listener, log
        self.served = ServedDirectory(directory)
        self.name = settings.model_name or Path(settings.directory or directory).resolve().name
        self.signal = 0

    async def run(self) -> int:
        """Start, serve, stop."""
        import uvicorn

        from mmft.serve.backends.launch import build_fleet
        from mmft.serve.gateway.app import Gateway
        from mmft.serve.gateway.http_protocol import PatientProtocol
        from mmft.serve.gateway.pool import Pool

        fleet = build_fleet(self.settings, self.served, self.choice, self.name, self.log)
        stop = asyncio.Event()
        with self._signals(stop):
            try:
                counter = await self._started(fleet, stop)
                if stop.is_set():
                    return self._status()
                upstreams = [member.upstream for member in fleet.everyone if member.upstream is not None]
                gateway = Gateway(self._allowed(counter), Pool(upstreams, self.settings.queue), counter)
                config = uvicorn.Config(
                    gateway.app, log_level='warning', access_log=False, lifespan='on', timeout_graceful_shutdown=10,
                    http=PatientProtocol, h11_max_incomplete_event_size=1 << 16,
                )  # fmt: skip
                server = uvicorn.Server(config)
                server.capture_signals = contextlib.nullcontext  # this class handles them
                with _named('cannot listen on {}:{}'.format(*self.listener.getsockname()[:2])):
                    reuse_address(self.listener)
                    serving = asyncio.ensure_future(server.serve(sockets=[self.listener]))
                    while not (server.started or serving.done()):  # uvicorn reports it to nobody
                        await asyncio.sleep(0.01)
                    if serving.done():
                        serving.result()
                if server.started:
                    self._announce(gateway.settings.session_len)
                await _first(serving, stop.wait(), fleet.lost.wait())
                server.should_exit = True
                await serving
                if not server.started:
                    raise ServerError('the gateway did not start', fix='its last lines stand above')
                if fleet.lost.is_set():
                    raise ServerError('the backend cannot be kept alive', fix='its last lines stand above')
                return self._status()
            finally:
                await fleet.stop()

    async def _started(self, fleet: Any, stop: asyncio.Event) -> Any:
        """The prompt counter, once all processes are ready; or nothing, if a signal comes before."""
        loading = asyncio.gather(fleet.start(), asyncio.to_thread(self._counter))
        await _first(loading, stop.wait())
        if loading.done():
            return loading.result()[1]
        loading.cancel()
        await asyncio.gather(loading, return_exceptions=True)
        return None

    def _counter(self) -> Any:
        """For what the gateway can count; of the others LMDeploy limits the session's length."""
        from mmft.serve.gateway.intake.prompt_count import EncoderCounter, ProcessorCounter

        with _named(f'cannot read {self.directory}'):
            if self.choice.name == 'mmft':
                return EncoderCounter(self.directory, self.settings.base)
            return ProcessorCounter(self.directory) if self.served.architecture in HF_NATIVE else None

    def _allowed(self, counter: Any = None) -> Any:
        from mmft.data.pictures.transparency import as_colour
        from mmft.data.stored_encoder import stored_background
        from mmft.serve.gateway.intake.prompt_count import session_length, text_config
        from mmft.serve.gateway.settings import GatewaySettings

        settings = self.settings
        session = settings.session_len or session_length(self.config)
        given = str(settings.directory or self.directory)
        names = tuple(dict.fromkeys([self.name, given, given.rstrip(os.sep), str(self.directory)]))
        about = {'model': self.name, 'backend': self.choice.name, 'session_len': session}
        if self.choice.name == 'mmft':
            background = counter.encoder.background
        else:
            background = as_colour(stored_background(self.served.json))
        root = str(settings.image_root) if settings.image_root is not None else None
        return GatewaySettings(
            names, about, settings.api_keys, self._hosts(), session, image_root=root,
            picture_hosts=settings.picture_hosts, vocabulary=text_config(self.config).get('vocab_size'),
            background=background,
        )  # fmt: skip

    def _hosts(self) -> tuple[str, ...]:
        """Of a server for this machine alone that asks for no key; see ``GatewaySettings``."""
        address = self.listener.getsockname()[0]
        if self.settings.api_keys or not ipaddress.ip_address(address).is_loopback:
            return ()
        return tuple(dict.fromkeys(['localhost', '127.0.0.1', '::1', address, self.settings.host.lower()]))

    def _announce(self, session: int | None) -> None:
        host, port = self.listener.getsockname()[:2]
        shown = f'[{host}]' if ':' in host else host
        self.log(
            f'{self.name!r} is served at http://{shown}:{port}/v1 (chat completions; session of {session} tokens; '
            f'{"with" if self.settings.api_keys else "no"} api key)'
        )
        if not self.settings.api_keys and host not in ('127.0.0.1', '::1'):
            self.log(f'note: anyone who can reach {shown} can use the server; --api-key KEY asks for a key')

    def _status(self) -> int:
        return 130 if self.signal == signal.SIGINT else 0

    @contextlib.contextmanager
    def _signals(self, stop: asyncio.Event) -> Iterator[None]:
        loop = asyncio.get_running_loop()

        def caught(number: int) -> None:
            if stop.is_set():
                sys.stderr.write('stopping already\n')
            self.signal = self.signal or number
            stop.set()

        numbers = (signal.SIGINT, signal.SIGTERM)
        for number in numbers:
            loop.add_signal_handler(number, caught, number)
        try:
            yield
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)


@contextlib.contextmanager
def _named(what: str) -> Iterator[None]:
    """Turn errors of the system in the block into one of ours that says what failed."""
    try:
        yield
    except OSError as error:
        raise ServerError(f'{what}: {error.strerror or error}') from error


async def _first(*awaitables: Any) -> None:
    """Wait for the first of them; the others that were made here are dropped, an error of the first is raised."""
    given = [asyncio.ensure_future(awaitable) for awaitable in awaitables]
    try:
        done, _ = await asyncio.wait(given, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in given[1:]:
            task.cancel()
    if given[0] in done:
        given[0].result()
