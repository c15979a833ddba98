"""A chat on a terminal or through a pipe: questions in, answers out, pictures and the rest by commands with a slash."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import urllib.parse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmft.data.pictures.loading import load_image
from mmft.data.prompt import prompt_messages
from mmft.data.records.splits import write_text
from mmft.errors import DataError, MMFTError
from mmft.structures import IMAGE_PLACEHOLDER, Message
from mmft.talk.answerer import Answerer
from mmft.talk.screen import Screen, one_line
from mmft.words import clipped, near_names, suggested

__all__ = ['COMMANDS', 'Chat']

COMMANDS = {
    '/image': ('PATH ...', 'show pictures with the next question'),
    '/reset': ('', 'forget the conversation and its pictures'),
    '/save': ('FILE', 'the conversation as text; FILE.json or FILE.jsonl as a record that mmft trains on'),
    '/help': ('', 'this list'),
    '/quit': ('', 'leave (also Ctrl-D)'),
}


class Chat:
    """One conversation, which survives whatever is typed.

    Args:
        answerer: who answers.
        screen: where it is read and shown.
        settings: of the answers, as of ``Answerer.stream``.
        system: a system message.

    Attributes:
        messages, images: the conversation up to its last answer.
        waiting: pictures for the next question.
        failed: how many lines ended in an error.
    """

    def __init__(
        self,
        answerer: Answerer,
        screen: Screen | None = None,
        settings: Mapping[str, Any] | None = None,
        system: str | None = None,
    ) -> None:
        self.answerer, self.screen, self.settings = answerer, screen or Screen(), dict(settings or {})
        self.system, self.failed = system, 0
        self._written: set[Path] = set()
        self.waiting: list[Path] = []
        self._begin()

    def _begin(self) -> None:
        self.messages: list[Message] = [] if self.system is None else [Message(role='system', content=self.system)]
        self.images: list[Path] = []

    def run(self) -> int:
        """Read, answer, and so on until the input ends.

        Returns:
            The exit status: 1 if a line of a pipe failed, else 0.
        """
        screen = self.screen
        if screen.terminal:
            screen.note(f'{self.answerer.name}. /image PATH shows a picture, /help lists the rest, Ctrl-D leaves.')
        while True:
            try:
                line = screen.read(self._prompt())
            except EOFError:
                if screen.terminal:
                    screen.out.write('\n')
                return 1 if self.failed and not screen.terminal else 0
            except KeyboardInterrupt:
                if not screen.terminal:
                    raise
                screen.out.write('\n')
                screen.note('Ctrl-D or /quit leaves')
                continue
            if not self.enter(line):
                return 1 if self.failed and not screen.terminal else 0

    def _prompt(self) -> str:
        count = len(self.waiting)
        return f'[{count} picture{"s" if count > 1 else ""}] > ' if count else '> '

    def enter(self, line: str) -> bool:
        """Do what a line says. Errors are shown, none is raised.

        Returns:
            Whether the chat goes on.
        """
        if not line.strip():
            return True
        command, rest = [*line.split(maxsplit=1), ''][:2]
        try:
            if not line.startswith('/'):
                self.ask(_text(line.strip()))
            elif command in ('/quit', '/exit'):
                return False
            elif command in COMMANDS:
                getattr(self, f'_{command[1:]}')(rest.strip())
            else:
                raise _unknown(command)
        except BrokenPipeError:
            raise
        except (MMFTError, OSError) as error:
            self.failed += 1
            self.screen.problem(one_line(error))
        return True

    def ask(self, question: str) -> None:
        """Ask, and show the answer as it comes. What fails leaves the conversation as it was.

        An answer that Ctrl-C stopped stays in the conversation as far as it came.
        """
        messages = [*self.messages, Message(role='user', content=question)]
        images = [*self.images, *self.waiting]
        # Placeholders are kept with the turn, so that later pictures do not move into it.
        messages = prompt_messages(messages, len(images))
        answer, stopped = '', False
        try:
            with contextlib.closing(self.answerer.stream(messages, images, **self.settings)) as pieces:
                for piece in pieces:
                    answer += piece
                    self.screen.piece(piece)
        except KeyboardInterrupt:
            if not self.screen.terminal:
                raise
            stopped = True
        finally:
            if answer or stopped:
                self.screen.piece('\n')
        if stopped:
            self.screen.note('stopped')
        if answer:
            self.messages = [*messages, Message(role='assistant', content=answer)]
            self.images, self.waiting = images, []
        elif not stopped:
            self.screen.piece('\n')
            self.screen.note('(the model answered nothing; the question is forgotten)')

    def show(self, paths: Sequence[str | Path]) -> None:
        """Keep pictures for the next question.

        Raises:
            DataError: one of them cannot be read; then none is kept.
        """
        found = [Path(path) for path in paths]
        for path in found:
            try:
                load_image(path)  # a damaged one is reported now, not when it is asked about
            except DataError as error:  # without the advice for annotation files
                raise DataError(error.bare, file=error.file, expected=error.expected) from error
        self.waiting += found

    def _image(self, rest: str) -> None:
        if not rest:
            raise DataError('/image names no picture', expected='/image PATH')
        found = _paths(rest)
        self.show(found)
        if self.screen.terminal:
            names = ', '.join(path.name for path in found)
            self.screen.note(f'{names}: ask about {"it" if len(found) == 1 else "them"}')

    def _reset(self, rest: str) -> None:
        self._begin()
        self.waiting = []
        self.screen.note('a new conversation')

    def _save(self, rest: str) -> None:
        path = _paths(rest, several=False)[0] if rest else None
        if path is None:
            raise DataError('/save names no file', expected='/save FILE')
        if not any(turn['role'] == 'assistant' for turn in self.messages):
            raise DataError('nothing has been said yet', fix='ask something first')
        if path.exists() and path.resolve() not in self._written:
            raise DataError(f'{path} exists', fix='choose another name')
        if not path.parent.is_dir():
            raise DataError(f'there is no folder {path.parent}', fix='choose another place')
        write_text(path, self._record(path.suffix.lower()) if path.suffix.lower() in _JSON else self._text())
        self._written.add(path.resolve())
        self.screen.note(f'wrote {path}')

    def _record(self, suffix: str) -> str:
        record = {'messages': self.messages, 'images': [str(path.resolve()) for path in self.images]}
        text = json.dumps(record, ensure_ascii=False)
        return f'{text}\n' if suffix == '.jsonl' else f'[{text}]\n'

    def _text(self) -> str:
        left = iter(self.images)
        names = {'system': 'system', 'user': 'you', 'assistant': self.answerer.name}
        turns = []
        for turn in self.messages:
            text = turn['content']
            if turn['role'] == 'user':
                text = re.sub(IMAGE_PLACEHOLDER, lambda _: f'[{next(left)}]', text)
            turns.append(f'{names[turn["role"]]}: {text}\n')
        return '\n'.join(turns)

    def _help(self, rest: str) -> None:
        rows = [(f'{name} {usage}'.strip(), text) for name, (usage, text) in COMMANDS.items()]
        rows += [
            ('\\ at the end', 'the question goes on in the next line'),
            (IMAGE_PLACEHOLDER, 'in a question: where its picture belongs (default: in front)'),
            ('Ctrl-C', 'stops an answer'),
        ]
        self.screen.note('\n'.join(f'  {name:<16}{text}' for name, text in rows))


_JSON = ('.json', '.jsonl')


def _text(line: str) -> str:
    """A line whose bytes that are no text became half surrogates, which no tokenizer takes."""
    return line.encode('utf-8', 'surrogateescape').decode('utf-8', 'replace')


def _paths(rest: str, several: bool = True) -> list[Path]:
    """The path, or paths, that were typed, quoted, or dragged into the window."""
    whole = _file(rest)
    with contextlib.suppress(OSError):  # too long a name, a folder that may not be read
        if whole.exists():
            return [whole]
    if not several:
        bare = rest[1:-1] if len(rest) > 1 and rest[0] == rest[-1] and rest[0] in '\'"' else rest
        return [_file(bare)]
    try:
        words = shlex.split(rest)
    except ValueError:
        words = [rest]
    return [_path(word) for word in words]


def _path(word: str) -> Path:
    if word.lower().startswith('file://'):
        word = urllib.parse.unquote(urllib.parse.urlsplit(word).path)
    elif re.match(r'(https?|data):', word, re.IGNORECASE):
        raise DataError(
            f'{clipped(word, 80)} is not a file', expected='a picture on this computer', fix='save it as a file first'
        )
    return _file(word)


def _file(word: str) -> Path:
    if '\0' in word:
        raise DataError(f'{clipped(repr(word), 80)} is not the name of a file', expected='one without NUL')
    try:
        return Path(word).expanduser()
    except RuntimeError:  # ~name, and nobody is called so
        return Path(word)


def _unknown(command: str) -> DataError:
    near = suggested(near_names(command, COMMANDS), form=str)
    return DataError(
        f'no command {clipped(command, 80)}',
        fix=(f'{near} ' if near else '') + '/help lists them; a space before / makes it a question',
    )
