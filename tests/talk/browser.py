"""A headless chromium, driven by its DevTools protocol: pages are used as people use them, with mouse and keyboard.

https://chromedevtools.github.io/devtools-protocol/ over a websocket is all that is needed, so there is no driver to
install beside the browser, whose version would have to match.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import aiohttp

__all__ = ['Browser', 'find_chromium']

_FLAGS = [
    '--headless=new',
    '--no-sandbox',  # containers have none to offer, and the only page that is opened is ours
    '--disable-gpu',
    '--disable-dev-shm-usage',
    '--no-first-run',
    '--disable-background-networking',
    '--disable-component-update',
    '--disable-sync',
    '--hide-scrollbars',
    '--remote-debugging-port=0',
]


def find_chromium() -> str | None:
    """The program, if there is one."""
    names = ('chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable', 'chrome')
    return next((path for name in names if (path := shutil.which(name))), None)


class Browser:
    """One window with one page.

    Args:
        program: of chromium.
        size: (width, height) of the page in CSS pixels.
        language: of the reader.

    Attributes:
        requests: the addresses that the page has asked for.
        complaints: errors in its console.
        downloads: the folder that receives what is saved.
    """

    def __init__(self, program: str, size: tuple[int, int] = (1280, 900), language: str = 'en-US') -> None:
        self._home = tempfile.TemporaryDirectory(prefix='chromium-', ignore_cleanup_errors=True)
        self.downloads = Path(self._home.name) / 'downloads'
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self._numbers, self._loop = itertools.count(1), asyncio.new_event_loop()
        self._process = subprocess.Popen(
            [
                program,
                *_FLAGS,
                f'--lang={language}',
                f'--accept-lang={language}',
                f'--user-data-dir={self._home.name}',
                'about:blank',
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            self._loop.run_until_complete(self._connect())
            for domain in ('Page', 'Runtime', 'Network', 'DOM', 'Log'):
                self.call(f'{domain}.enable')
            self.call('Page.setDownloadBehavior', behavior='allow', downloadPath=str(self.downloads))
            self.resize(*size)
        except BaseException:
            self.close()
            raise

    async def _connect(self) -> None:
        told = Path(self._home.name) / 'DevToolsActivePort'
        deadline = time.monotonic() + 60
        while not (told.exists() and told.read_text().count('\n')):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f'chromium does not start: exit status {self._process.poll()}')
            await asyncio.sleep(0.05)
        at = f'http://127.0.0.1:{told.read_text().split()[0]}'
        self._session = aiohttp.ClientSession()
        async with self._session.get(f'{at}/json/list') as answer:
            page = next(target for target in await answer.json() if target['type'] == 'page')
        self._socket = await self._session.ws_connect(page['webSocketDebuggerUrl'], max_msg_size=0)

    def call(self, method: str, **arguments: Any) -> dict[str, Any]:
        """A command of the protocol and its result."""
        return self._loop.run_until_complete(self._call(method, arguments))

    async def _call(self, method: str, arguments: dict[str, Any]) -> dict[str, Any]:
        number = next(self._numbers)
        await self._socket.send_json({'id': number, 'method': method, 'params': arguments})
        while True:
            message = await asyncio.wait_for(self._socket.receive_json(), 60)
            if message.get('id') == number:
                if 'error' in message:
                    raise RuntimeError(f'{method}: {message["error"]["message"]}')
                return message['result']
            self._note(message)

    def _note(self, event: dict[str, Any]) -> None:
        name, what = event.get('method'), event.get('params', {})
        if name == 'Network.requestWillBeSent':
            self.requests.append(what['request']['url'])
        elif name == 'Runtime.exceptionThrown':
            self.complaints.append(json.dumps(what['exceptionDetails'])[:2000])
        elif name == 'Runtime.consoleAPICalled' and what['type'] == 'error':
            self.complaints.append(' '.join(str(arg.get('value', arg.get('description'))) for arg in what['args']))
        elif name == 'Log.entryAdded' and what['entry']['level'] == 'error':
            self.complaints.append(f'{what["entry"]["text"]} {what["entry"].get("url", "")}')

    def open(self, url: str) -> None:
        """Go to an address."""
        self.call('Page.navigate', url=url)

    def js(self, code: str) -> Any:
        """The value of an expression on the page."""
        result = self.call('Runtime.evaluate', expression=code, awaitPromise=True, returnByValue=True)
        if 'exceptionDetails' in result:
            raise RuntimeError(f'{code}: {result["exceptionDetails"]["exception"].get("description")}')
        return result['result'].get('value')

    def wait(self, code: str, seconds: float = 60) -> Any:
        """The value of an expression as soon as it is true.

        Raises:
            TimeoutError: it does not become true; the text of the page is in the message.
        """
        deadline = time.monotonic() + seconds
        while not (value := self._now(code)):
            if time.monotonic() > deadline:
                raise TimeoutError(f'never true: {code}\npage: {self.js("document.body.innerText")[:3000]}')
            time.sleep(0.05)
        return value

    def _now(self, code: str) -> Any:
        try:  # an element has no value to return
            return self.js(f'(value => value instanceof Node || value)({code})')
        except RuntimeError as error:
            if any(words in str(error) for words in ('navigated', 'context')):  # the page is just being left
                return None
            raise

    def click(self, selector: str) -> None:
        """Click the middle of an element, once it is there and can be used."""
        code = (
            f'(() => {{ const e = document.querySelector({json.dumps(selector)}); if (!e || e.disabled) return null;'
            "e.scrollIntoView({block: 'center', behavior: 'instant'}); const r = e.getBoundingClientRect();"
            'return r.width ? [r.x + r.width / 2, r.y + r.height / 2] : null })()'
        )
        x, y = self.wait(code, 20)
        for kind in ('mousePressed', 'mouseReleased'):
            self.call('Input.dispatchMouseEvent', type=kind, x=x, y=y, button='left', clickCount=1)

    def type(self, text: str) -> None:
        """Text into what has the focus."""
        self.call('Input.insertText', text=text)

    def press(self, key: str, code: int) -> None:
        """A key, such as ('Enter', 13)."""
        for kind in ('keyDown', 'keyUp'):
            extra = {'text': '\r'} if key == 'Enter' and kind == 'keyDown' else {}
            self.call('Input.dispatchKeyEvent', type=kind, key=key, code=key, windowsVirtualKeyCode=code, **extra)

    def upload(self, selector: str, *paths: str | Path) -> None:
        """Files into an ``<input type=file>``."""
        root = self.call('DOM.getDocument')['root']['nodeId']
        node = self.call('DOM.querySelector', nodeId=root, selector=selector)['nodeId']
        self.call('DOM.setFileInputFiles', nodeId=node, files=[str(path) for path in paths])

    def drop(self, selector: str, *paths: str | Path) -> None:
        """Drag files from a folder onto an element."""
        code = (
            f'(() => {{ const r = document.querySelector({json.dumps(selector)}).getBoundingClientRect();'
            'return [r.x + r.width / 2, r.y + r.height / 2] })()'
        )
        x, y = self.js(code)
        data = {'items': [], 'files': [str(path) for path in paths], 'dragOperationsMask': 1}
        for kind in ('dragEnter', 'dragOver', 'drop'):
            self.call('Input.dispatchDragEvent', type=kind, x=x, y=y, data=data)

    def resize(self, width: int, height: int, scale: float = 1) -> None:
        """The page's size, as of a window or a telephone."""
        self.call(
            'Emulation.setDeviceMetricsOverride',
            width=width,
            height=height,
            deviceScaleFactor=scale,
            mobile=width < 600,
        )

    def dark(self, on: bool = True) -> None:
        """Whether the system likes dark pages."""
        features = [{'name': 'prefers-color-scheme', 'value': 'dark' if on else 'light'}]
        self.call('Emulation.setEmulatedMedia', features=features)

    def screenshot(self, path: str | Path, whole: bool = False) -> None:
        """A PNG of what is seen, or of the whole page."""
        data = self.call('Page.captureScreenshot', format='png', captureBeyondViewport=whole)['data']
        Path(path).write_bytes(base64.b64decode(data))

    def close(self) -> None:
        """End the browser and forget its files."""
        if hasattr(self, '_socket'):
            self._loop.run_until_complete(self._socket.close())
        if hasattr(self, '_session'):
            self._loop.run_until_complete(self._session.close())
        self._loop.close()
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._home.cleanup()

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
