"""Text that strangers write, on a terminal: it is shown, and commands nothing."""

from __future__ import annotations

import io
import json
import logging
import sys
import warnings

import pytest

from mmft.cli.converters.common import show
from mmft.cli.main import main
from mmft.data.text.label_mask import render_mask
from mmft.errors import CheckpointError, ConfigError, DataError
from mmft.serve.backends.choose import Choice
from mmft.serve.backends.directory_check import ServedDirectory
from mmft.serve.backends.launch import build_fleet
from mmft.serve.settings import ServeSettings
from mmft.talk.screen import Screen
from tests.security.planted import MODEL, write_native

NASTY = 'a\x1b[2J\x1b]0;title\x07\rb\x9b31m\u202ec'
COMMANDS = ('\x1b', '\x07', '\r', '\x9b', '\u202e')


def obeyed(text):
    """What of it a terminal would obey."""
    return [char for char in COMMANDS if char in text]


@pytest.mark.parametrize('error', [
    ConfigError(NASTY, expected=NASTY, fix=NASTY),
    ConfigError.gather([NASTY, ConfigError(NASTY)]),
    CheckpointError(NASTY + '\ud800'),
    DataError(NASTY, file=f'{NASTY}.jsonl', line=3, fix=NASTY),
    DataError(NASTY, file=NASTY).at(f'other {NASTY}', 5),
])  # fmt: skip
def test_errors(error):
    said = '\n'.join(map(str, (error, error.what, error.expected, error.fix, getattr(error, 'bare', ''))))
    assert not obeyed(said)
    assert r'a\x1b[2J' in said
    said.encode('utf-8')


def test_check_data(tmp_path, capsys):
    folder = tmp_path / NASTY.replace('/', '')
    folder.mkdir()
    turns = [{'from': 'human', 'value': f'<image>{NASTY}'}, {'from': 'gpt', 'value': NASTY}]
    rows = [{'id': n, 'image': f'{NASTY}.png', 'conversations': turns, NASTY: 1} for n in range(3)]
    (folder / 'data.jsonl').write_text('\n'.join(map(json.dumps, rows)))
    assert main(['check-data', '--ann-file', str(folder / 'data.jsonl'), '--workers', '1']) == 1
    said = ''.join(capsys.readouterr())
    assert r'a\x1b[2J' in said
    assert not obeyed(said)


def test_commands(tmp_path, capsys):
    for command in (['chat', f'{NASTY}'], ['pth_to_hf', NASTY, NASTY, 'out'], ['train', NASTY],
                    ['webui', f'{tmp_path}/{NASTY}'], ['serve', NASTY]):  # fmt: skip
        assert main(command) == 1
        said = ''.join(capsys.readouterr())
        assert 'error' in said
        assert not obeyed(said)


def test_logs_of_other_libraries(tmp_path, capfd):
    """transformers warns of what it reads in a ``config.json``."""
    llm = {**MODEL['llm'], 'rope_scaling': {'rope_type': NASTY, 'factor': 2.0, NASTY: 1}}
    folder = write_native(tmp_path / 'x', MODEL)
    config = json.loads((folder / 'config.json').read_text())
    (folder / 'config.json').write_text(json.dumps({**config, 'model': {**MODEL, 'llm': llm}}))
    assert main(['chat', str(folder)]) == 1
    said = ''.join(capfd.readouterr())
    assert r'a\x1b[2J' in said
    assert not obeyed(said)


def test_errors_that_are_logged_and_warnings(monkeypatch, capsys):
    """Both hold what another library says of a file."""

    def run(args):
        log, to = logging.getLogger('zz.planted'), logging.StreamHandler(sys.stderr)
        log.addHandler(to)
        try:
            raise ValueError(NASTY)
        except ValueError:
            log.exception(NASTY)
        finally:
            log.removeHandler(to)
        # Not warned: pytest would take it.
        print(warnings.formatwarning(UserWarning(NASTY), UserWarning, 'x.py', 1), file=sys.stderr)

    monkeypatch.setattr('mmft.cli.list_cfg.run', run)
    before = warnings.formatwarning
    assert main(['list-cfg']) == 0
    said = capsys.readouterr().err
    assert said.count(r'a\x1b[2J') == 3
    assert not obeyed(said)
    assert warnings.formatwarning is before


def test_the_label_mask_has_colours_of_its_own_alone():
    shown = render_mask([(NASTY, True)])
    assert shown.count('\x1b') == 2
    assert not obeyed(shown.replace('\x1b', ''))


def test_reports_of_converters(capsys):
    report = {'counts': {NASTY: {NASTY: 1}}, 'left_out': {NASTY: 1}, 'warnings': [NASTY], 'changed': {NASTY: 1},
              'files': {}, 'image_root': NASTY, 'tables': {NASTY: [[NASTY, 1]]}}  # fmt: skip
    show(report)
    assert not obeyed(''.join(capsys.readouterr()))


def test_a_chat():
    screen = Screen(io.StringIO(), io.StringIO(), io.StringIO())
    screen.piece(NASTY)
    screen.note(NASTY)
    screen.problem(NASTY)
    assert not obeyed(screen.out.getvalue() + screen.err.getvalue())


@pytest.mark.parametrize('backend', ['transformers', 'turbomind'])
def test_a_directory_whose_name_is_an_option(backend, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / '--trust-remote-code'
    folder.mkdir()
    (folder / 'config.json').write_text('{"architectures": ["LlavaForConditionalGeneration"]}')
    served, choice = ServedDirectory('--trust-remote-code'), Choice(backend, '')
    fleet = build_fleet(ServeSettings(directory=folder.name), served, choice, '--trust-remote-code', print)
    (member,) = fleet.everyone
    assert str(folder) in member.child.command
    assert '--trust-remote-code' not in member.child.command
    assert not any(word.startswith('--trust') for word in member.child.command)
    assert sys.executable in member.child.command
