"""What the page of ``mmft webui`` needs of its process before gradio runs in it."""

from __future__ import annotations

import atexit
import functools
import hashlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from mmft.errors import ConfigError, DataError
from mmft.talk.conversation_page import small_jpeg

__all__ = ['LOOPBACK', 'PRIVATE', 'copied', 'guards', 'no_proxy_to_loopback', 'parse_auth', 'private_folder',
           'small_copy']  # fmt: skip

LOOPBACK = ('127.0.0.1', 'localhost', '::1')

PRIVATE: dict[str, Any] = {
    'share': False,
    'footer_links': [],
    'run_history': False,
    'enable_monitoring': False,
    'mcp_server': False,
    'ssr_mode': False,
    'pwa': False,
}
"""Options of gradio's ``launch``: no tunnel, and none of what it adds to a page."""

_OWN_MEDIA = b"img-src 'self' data: blob:; media-src 'self' data: blob:; frame-src 'none'; object-src 'none'"


@functools.cache
def private_folder() -> Path:
    """Uploads of this process: for its user only, and gone with it.

    gradio's own place, /tmp/gradio, is shared with everybody on the machine and never emptied.
    """
    folder = tempfile.mkdtemp(prefix='mmft-webui-')
    os.environ['GRADIO_TEMP_DIR'] = folder
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def copied(path: Path) -> Path:
    """A copy in the private folder: gradio hands out files from there only, and that is what protects the others."""
    folder = private_folder() / hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:24]
    folder.mkdir(exist_ok=True)
    _small(folder / path.name).unlink(missing_ok=True)  # of what the file was before, if it was changed since
    return Path(shutil.copyfile(path, folder / path.name))


def small_copy(path: Path) -> Path | None:
    """What a browser is given of an upload of any format and size: a small upright JPEG, beside it; None if it is gone.

    >>> small_copy(Path('/nowhere/a.png'))
    """
    small = _small(path)
    try:
        if not small.exists():
            small.write_bytes(small_jpeg(path))
    except (DataError, OSError):
        return None
    return small


def _small(path: Path) -> Path:
    return path.with_name(f'{path.name}.shown.jpg')


def guards(host: str) -> list[Any]:
    """Middleware of the page's server, which listens at ``host``.

    On loopback other host names are refused: a page elsewhere whose name was made to point here would else be let in.
    And browsers are told to fetch no picture from elsewhere: a text in a picture may talk a model into writing one,
    whose address tells its server what was said.
    """
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    hosts = [Middleware(TrustedHostMiddleware, allowed_hosts=list(LOOPBACK))] if host in LOOPBACK[:2] else []
    return [*hosts, Middleware(_OwnMedia)]


class _OwnMedia:
    """Sends the policy with every answer. Bare ASGI: starlette's own base class would hold streams back."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def send_with_policy(message: Any) -> None:
            if message['type'] == 'http.response.start':
                message = {**message, 'headers': [*message['headers'], (b'content-security-policy', _OWN_MEDIA)]}
            await send(message)

        await self._app(scope, receive, send_with_policy)


def no_proxy_to_loopback() -> None:
    """gradio calls its own server once, and takes a proxy's refusal for a broken network."""
    for name in ('no_proxy', 'NO_PROXY'):
        known = [part for part in os.environ.get(name, '').split(',') if part]
        os.environ[name] = ','.join(dict.fromkeys([*known, *LOOPBACK]))


def parse_auth(given: list[str]) -> list[tuple[str, str]]:
    """(user, password) pairs of ``USER:PASSWORD``, or of a file with one of these a line, as ``@FILE``.

    Raises:
        ConfigError: something else, or a user twice.

    >>> parse_auth(['ann:se:cret'])
    [('ann', 'se:cret')]
    """
    lines = []
    for text in given:
        if text.startswith('@'):
            try:
                lines += [line for line in Path(text[1:]).read_text(encoding='utf-8').splitlines() if line.strip()]
            except (OSError, ValueError) as error:
                raise ConfigError(f'--auth {text}: {error}', expected='a file of lines USER:PASSWORD') from error
        else:
            lines.append(text)
    pairs = [tuple(line.partition(':')[::2]) for line in lines]
    if not all(user and password for user, password in pairs):
        raise ConfigError('--auth without a user or a password', expected='USER:PASSWORD, or @FILE with such lines')
    if given and not pairs:
        raise ConfigError('--auth names nobody', expected='USER:PASSWORD, or @FILE with such lines')
    if len({user for user, _ in pairs}) != len(pairs):
        raise ConfigError('--auth names a user twice', expected='one password for each')
    return pairs
