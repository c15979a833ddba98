"""Stand-ins: an answerer that says what it is told to, and a server with the OpenAI API that does."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import chain
from pathlib import Path
from typing import Any

from PIL import Image

from mmft.talk.answerer import Answerer


class Said(Answerer):
    """Says what ``say(messages, images)`` returns, word by word; an exception is raised.

    Attributes:
        asked: (messages, images, settings) of every question.
        closed: whether an answer was given up before its end.
    """

    def __init__(self, say: Callable[[Sequence[Any], Sequence[Any]], str] | str, name: str = 'said') -> None:
        self.say = say if callable(say) else lambda messages, images: say
        self.name, self.asked, self.closed = name, [], False

    def _pieces(self, messages: Any, images: Any, settings: Mapping[str, Any], stop: Any) -> Iterator[str]:
        self.asked.append((messages, images, dict(settings)))
        done = False
        try:
            text = self.say(messages, images)
            yield from text.replace(' ', ' \0').split('\0')
            done = True
        finally:
            self.closed = not done


class FakeServer:
    """A server on a free port of the loopback.

    Args:
        say: (request) -> the answer's pieces; strings, or bytes that are sent as they are.
        key: wanted as a bearer token.
        models: listed.
        streams: whether it streams when it is asked to.

    Attributes:
        requests: every request that came, as JSON.
        gone: set when a client left before the end of an answer.
    """

    def __init__(
        self,
        say: Callable[[Any], Any] = lambda request: ['a ', 'dish'],
        key: str | None = None,
        models: Sequence[str] = ('model',),
        streams: bool = True,
    ) -> None:
        self.say, self.key, self.models, self.streams = say, key, list(models), streams
        self.requests: list[Any] = []
        self.gone = threading.Event()
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if fake._allowed(self):
                    fake._send(self, {'object': 'list', 'data': [{'id': name} for name in fake.models]})

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers['Content-Length']))
                if fake._allowed(self):
                    fake._answer(self, json.loads(body))

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(('127.0.0.1', 0), Handler)
        self._server.daemon_threads = True
        self.url = f'http://127.0.0.1:{self._server.server_port}'

    def __enter__(self) -> FakeServer:
        threading.Thread(target=self._server.serve_forever, kwargs={'poll_interval': 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _allowed(self, handler: BaseHTTPRequestHandler) -> bool:
        if self.key is None or handler.headers.get('Authorization') == f'Bearer {self.key}':
            return True
        self._send(handler, {'error': {'message': 'Incorrect API key provided', 'code': 'invalid_api_key'}}, 401)
        return False

    def _send(self, handler: BaseHTTPRequestHandler, content: Any, status: int = 200) -> None:
        body = json.dumps(content).encode()
        handler.send_response(status)
        handler.send_header('Content-Type', 'application/json')
        handler.send_header('Content-Length', str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    def _answer(self, handler: BaseHTTPRequestHandler, request: Any) -> None:
        self.requests.append(request)
        said = self.say(request)
        if isinstance(said, tuple):  # (status, body)
            self._send(handler, said[1], said[0])
            return
        if not self.streams:
            self._send(handler, {'choices': [{'message': {'role': 'assistant', 'content': ''.join(said)}}]})
            return
        handler.send_response(200)
        handler.send_header('Content-Type', 'text/event-stream; charset=utf-8')
        handler.end_headers()
        try:
            for piece in chain([b'data: {"choices":[{"index":0,"delta":{"role":"assistant"}}]}\n\n'], said):
                handler.wfile.write(piece if isinstance(piece, bytes) else event(piece))
                handler.wfile.flush()
        except OSError:
            self.gone.set()
        else:
            if isinstance(said, list) and not isinstance(said[-1], bytes):
                with contextlib.suppress(OSError):
                    handler.wfile.write(event('', 'stop') + b'data: {"choices":[],"usage":{}}\n\ndata: [DONE]\n\n')


def event(text: str, finish: str | None = None) -> bytes:
    """A server-sent event with a piece of an answer."""
    choice = {'index': 0, 'delta': {'content': text}, 'finish_reason': finish}
    return f'data: {json.dumps({"choices": [choice]})}\n\n'.encode()


def save_picture(path: Path, color: tuple[int, int, int] = (200, 30, 30), size: tuple[int, int] = (8, 6)) -> Path:
    """A picture of one colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new('RGB', size, color).save(path)
    return path


def save_records(path: Path, records: Sequence[tuple[str, str, str]], **more: Any) -> Path:
    """An annotation file of (picture, question, answer), whose pictures are made beside it."""
    lines = []
    for number, (picture, question, answer) in enumerate(records):
        save_picture(path.parent / picture, (number * 40 % 256, 80, 90))
        talk = [{'from': 'human', 'value': f'<image>\n{question}'}, {'from': 'gpt', 'value': answer}]
        lines.append(json.dumps({'id': f'q{number}', 'image': picture, 'conversations': talk, **more}))
    path.write_text('\n'.join(lines) + '\n', encoding='utf-8')
    return path
