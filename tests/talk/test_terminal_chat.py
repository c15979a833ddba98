"""The chat: through a pipe, line by line, and on a real (pseudo) terminal with Ctrl-C and Ctrl-D."""

from __future__ import annotations

import io
import json
import os
import pty
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mmft.cli.main import main
from mmft.data.records.formats import parse_record
from mmft.errors import ServerError
from mmft.talk.screen import Screen
from mmft.talk.terminal_chat import COMMANDS, Chat
from tests.talk.fakes import FakeServer, Said, event, save_picture

ROOT = Path(__file__).parents[2]


def talk(answerer, *lines, **options):
    """A chat through a pipe: (the chat, exit status, answers, notes and errors)."""
    out, err = io.StringIO(), io.StringIO()
    chat = Chat(answerer, Screen(io.StringIO(''.join(f'{line}\n' for line in lines)), out, err), **options)
    return chat, chat.run(), out.getvalue(), err.getvalue()


@pytest.fixture
def red(tmp_path):
    return save_picture(tmp_path / 'red.jpg')


def test_a_conversation_goes_on_with_its_pictures(red, tmp_path):
    blue = save_picture(tmp_path / 'my blue.png')
    said = Said(lambda messages, images: f'answer {len(messages)} {len(images)}')
    _, status, out, err = talk(
        said, f'/image {red}', 'What is it?', 'And now?', f'/image {blue} ', 'This?', system='Be brief.'
    )
    assert (status, err) == (0, '')
    assert out == 'answer 2 1\nanswer 4 1\nanswer 6 2\n'
    messages, images, _ = said.asked[-1]
    assert [turn['content'] for turn in messages] == [
        'Be brief.', '<image>\nWhat is it?', 'answer 2 1', 'And now?', 'answer 4 1', '<image>\nThis?',
    ]  # fmt: skip
    assert images == [red, blue]


def test_reset_forgets_everything_but_the_system_message(red):
    said = Said('yes')
    talk(said, f'/image {red}', 'One?', f'/image {red}', '/reset', 'Two?', system='Be brief.')
    messages, images, _ = said.asked[-1]
    assert [turn['content'] for turn in messages] == ['Be brief.', 'Two?']
    assert images == []


def test_settings_reach_the_model():
    said = Said('yes')
    talk(said, 'One?', settings={'max_new_tokens': 7, 'temperature': 0.5, 'top_p': 0.9, 'seed': 3})
    assert said.asked[0][2] == {'max_new_tokens': 7, 'temperature': 0.5, 'top_p': 0.9, 'seed': 3}


@pytest.mark.parametrize(
    ('line', 'what'),
    [
        ('/image', '/image names no picture'),
        ('/image nowhere.jpg', 'nowhere.jpg: no such picture'),
        ('/image .', 'a directory'),
        ('/image broken.jpg', 'breaks off'),
        ('/image red.jpg nowhere.jpg', 'nowhere.jpg: no such picture'),
        ('/image "unclosed', 'no such picture'),
        ('/image https://example.com/a.jpg', 'a picture on this computer'),
        ('/save', '/save names no file'),
        ('/save x.txt', 'nothing has been said yet'),
        ('/imgae x', 'did you mean /image?'),
        ('What is <image>?', '1 <image> in the questions, 0 pictures'),
    ],
)
def test_wrong_input_gives_one_line_and_the_chat_goes_on(line, what, red, monkeypatch):
    monkeypatch.chdir(red.parent)
    Path('broken.jpg').write_bytes(save_picture(red.parent / 'whole.jpg', size=(400, 300)).read_bytes()[:900])
    said = Said('yes')
    chat, status, out, err = talk(said, line, '', 'Still there?')
    assert (status, out) == (1, 'yes\n')
    assert err.startswith('error: ')
    assert err.count('\n') == 1
    assert what in err
    assert chat.waiting == []
    assert said.asked[0][1] == []


def test_a_failed_question_leaves_the_conversation_as_it_was(red):
    failing = iter([True, False])

    def say(messages, images):
        if next(failing):
            raise ServerError('the server is busy', fix='ask again')
        return f'{len(messages)} {len(images)}'

    _, status, out, err = talk(Said(say), f'/image {red}', 'What?', 'What?')
    assert (status, out, err) == (1, '1 1\n', 'error: the server is busy; ask again\n')


def test_an_answer_that_says_nothing_is_no_turn(red):
    said = Said(lambda messages, images: '' if len(said.asked) == 1 else 'now')
    chat, status, out, err = talk(said, f'/image {red}', 'What?', 'What then?')
    assert (status, out) == (0, '\nnow\n')
    assert 'answered nothing' in err
    assert len(chat.messages) == 2
    assert chat.images == [red]


def test_pictures_may_be_typed_quoted_or_dragged(tmp_path):
    path = save_picture(tmp_path / 'my photo.jpg')
    escaped = str(path).replace(' ', '\\ ')
    for typed in (f'{path}', f'"{path}"', escaped, f'file://{str(path).replace(" ", "%20")}', f'{escaped} "{path}"'):
        said = Said('yes')
        _, status, _, err = talk(said, f'/image {typed}', 'What?')
        assert (status, err) == (0, '')
        assert set(said.asked[0][1]) == {path}


def test_save_writes_a_record_that_mmft_reads(red, tmp_path):
    out = tmp_path / 'talk.jsonl'
    save = [f'/save {out}', 'And?', f'/save {out}', f'/save {tmp_path / "talk.md"}']
    chat, status, _, err = talk(Said('é 好'), f'/image {red}', 'What?', *save)
    assert (status, err.count('wrote')) == (0, 3)
    record = parse_record(json.loads(out.read_text(encoding='utf-8')))
    assert record.messages == chat.messages
    assert record.images == [str(red)]
    text = (tmp_path / 'talk.md').read_text(encoding='utf-8')
    assert text == f'you: [{red}]\nWhat?\n\nsaid: é 好\n\nyou: And?\n\nsaid: é 好\n'


def test_save_replaces_no_file_of_others(tmp_path):
    mine = tmp_path / 'thesis.md'
    mine.write_text('years of work')
    _, status, _, err = talk(Said('yes'), 'What?', f'/save {mine}', f'/save {tmp_path / "no" / "x.md"}')
    assert status == 1
    assert f'{mine} exists; choose another name' in err
    assert 'there is no folder' in err
    assert mine.read_text() == 'years of work'


def test_help_names_every_command_and_quit_leaves():
    said = Said('yes')
    _, status, _, err = talk(said, '/help', '/quit', 'What?')
    assert (status, said.asked) == (0, [])
    assert all(name in err for name in COMMANDS)


def test_a_line_goes_on_after_a_backslash():
    said = Said('yes')
    talk(said, 'one \\', 'two', ' /not a command', 'last\\')
    asked = [messages[-1]['content'] for messages, _, _ in said.asked]
    assert asked == ['one \ntwo', '/not a command', 'last']


def test_a_model_cannot_command_the_terminal():
    assert talk(Said('\x1b[2J\x1b]0;title\x07a\r\x9bb'), 'What?')[2] == r'\x1b[2J\x1b]0;title\x07a\r\x9bb' + '\n'
    assert talk(Said('tab\tline\n中文🙂👩\u200d🍳'), 'What?')[2] == 'tab\tline\n中文🙂👩\u200d🍳\n'


def run(arguments, given):
    """``tools/chat.py`` with its input through a pipe."""
    command = [sys.executable, str(ROOT / 'tools/chat.py'), *arguments]
    return subprocess.run(command, input=given, capture_output=True, cwd=ROOT, timeout=120)


def test_command_line_through_a_pipe(red):
    with FakeServer(lambda request: [f'{len(request["messages"])} ', '好'], key='secret') as server:
        given = 'What?\n/image nowhere.jpg\nAnd \xff?\n'.encode('latin-1')
        done = run(['--url', server.url, '--api-key', 'secret', '--image', str(red), '--max-new-tokens', '5'], given)
    assert done.stdout.decode() == '1 好\n3 好\n'
    assert done.stderr.decode() == 'error: nowhere.jpg: no such picture\n'
    assert done.returncode == 1
    first, second = server.requests
    assert first['max_tokens'] == 5
    assert first['messages'][0]['content'][0]['type'] == 'image_url'
    assert second['messages'][2]['content'] == 'And \ufffd?'


def test_a_pipe_from_windows(red):
    """A byte order mark, CRLF, and names of files that are no text."""
    odd = os.fsencode(red.parent) + b'/caf\xe9.jpg'
    Path(os.fsdecode(odd)).write_bytes(red.read_bytes())
    with FakeServer(lambda request: ['yes']) as server:
        given = (
            b'\xef\xbb\xbf/image '
            + os.fsencode(red)
            + b'\r\nWhat?\r\n\r\n\xef\xbb\xbf/image '
            + odd
            + b'\r\nAnd?\r\n/quit\r\n'
        )
        done = run(['--url', server.url], given)
    assert (done.stdout, done.stderr, done.returncode) == (b'yes\nyes\n', b'', 0)
    questions = [turn['content'] for turn in server.requests[1]['messages'][::2]]
    assert [[part.get('text', part['type']) for part in parts] for parts in questions] == [
        ['image_url', 'What?'],
        ['image_url', 'And?'],
    ]


@pytest.mark.parametrize('mark', ['\ufeff', '\xef\xbb\xbf'])
def test_a_byte_order_mark_is_no_part_of_a_command(mark, red):
    said = Said('yes')
    assert talk(said, f'{mark}/image {red}', f'{mark}What?')[1:] == (0, 'yes\n', '')
    assert (said.asked[0][0][0]['content'], said.asked[0][1]) == ('<image>\nWhat?', [red])


@pytest.mark.parametrize(
    'line',
    ['/image ' + 'x' * 20_000, '/image ~nobody-of-this-name/a.jpg', '/image a\0b.jpg', '/save a\0b.txt',
     '/save ' + 'x' * 999, '/image \udcff.jpg',
     '/image data:image/png;base64,' + 'A' * 9999, '/' + 'x' * 9999, '/image "', '/\0', '/\ud800'],
)  # fmt: skip
def test_no_line_ends_the_chat(line):
    said = Said('yes')
    _, status, out, err = talk(said, 'One?', line, 'Two?')
    assert (status, out) == (1, 'yes\nyes\n')
    assert err.startswith('error: ')
    assert len(err) < 700
    err.encode()


@pytest.mark.parametrize(
    ('arguments', 'what'),
    [([], '0 models'), (['a', 'b', 'c'], '3 models'), (['a', '--url', 'http://x'], '2 models'),
     (['no/such/directory'], 'no/such/directory'), (['--url', 'http://127.0.0.1:9'], 'does not answer'),
     (['no_such_config', 'iter_1.pth'], 'no_such_config')],
)  # fmt: skip
def test_wrong_targets_end_with_1(arguments, what, capsys):
    assert main(['chat', *arguments]) == 1
    assert what in capsys.readouterr().err


class Terminal:
    """A program on a terminal of its own."""

    def __init__(self, *command: str) -> None:
        self.keys, screen = pty.openpty()
        # Ctrl-C is a signal to the terminal's foreground group: the child makes this its controlling terminal.
        take = (
            'import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])'
        )
        self.process = subprocess.Popen(
            [sys.executable, '-c', take, *command], stdin=screen, stdout=screen, stderr=screen, start_new_session=True,
            cwd=ROOT, env={**os.environ, 'TERM': 'dumb'},
        )  # fmt: skip
        os.close(screen)
        self._seen = b''

    def type(self, text: str) -> None:
        os.write(self.keys, text.encode())

    def until(self, text: str, seconds: float = 60) -> str:
        """What comes up to and with ``text``, within so many seconds."""
        deadline = time.monotonic() + seconds
        while text.encode() not in self._seen:
            if not select.select([self.keys], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise AssertionError(f'{text!r} never came: {self._seen!r}')
            try:
                self._seen += os.read(self.keys, 1024)
            except OSError:  # it has ended
                raise AssertionError(f'{text!r} never came: {self._seen!r}') from None
            if time.monotonic() > deadline:
                raise AssertionError(f'{text!r} never came: ... {self._seen[-200:]!r}')
        end = self._seen.index(text.encode()) + len(text.encode())
        seen, self._seen = self._seen[:end], self._seen[end:]
        return seen.decode(errors='replace')


def test_on_a_terminal_ctrl_c_stops_an_answer_and_ctrl_d_leaves(red):
    def say(request):
        if 'endless' not in str(request['messages'][-1]):
            yield event('short')
            yield event('', 'stop')
            return
        while not server.gone.wait(0.01):
            yield event('word ')

    with FakeServer(say) as server:
        screen = Terminal(sys.executable, str(ROOT / 'tools/chat.py'), '--url', server.url)
        assert 'Ctrl-D leaves' in screen.until('\n')
        screen.until('> ')
        screen.type(f'/image {red}\n')
        screen.until('[1 picture] > ')
        screen.type('an endless one\n')
        screen.until('word word')
        screen.type('\x03')
        try:
            screen.until('stopped', 20)
        except AssertionError:  # Python loses an interrupt that meets it in a destructor: people press again
            screen.type('\x03')
            screen.until('stopped')
        assert server.gone.wait(10)
        screen.until('> ')
        screen.type('half a line\x03')
        screen.until('Ctrl-D or /quit leaves')
        screen.until('> ')
        screen.type('and now\n')
        screen.until('short')
        screen.until('> ')
        screen.type('\x04')
        assert screen.process.wait(30) == 0
    os.close(screen.keys)
    # What was said before Ctrl-C is part of the conversation.
    history = server.requests[-1]['messages']
    assert [turn['role'] for turn in history] == ['user', 'assistant', 'user']
    assert history[1]['content'].startswith('word word')
