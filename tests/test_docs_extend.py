"""docs/extend.md as a project outside the tree: its code blocks are written as files, its commands run in a shell."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r'^```(\w+)\n(.*?)^```', re.S | re.M)


def shell(folder: Path, text: str) -> subprocess.CompletedProcess:
    """Run commands in ``folder``, with ``mmft`` as the command of this tree and not of what is installed."""
    commands = folder / 'bin'
    if not commands.is_dir():
        commands.mkdir()
        (commands / 'mmft').write_text(f'#!/bin/sh\nexec {sys.executable} -m mmft.cli.main "$@"\n')
        (commands / 'python').write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
        for command in commands.iterdir():
            command.chmod(0o755)
    head = f'export PYTHONPATH=$PWD:{ROOT} PATH={commands}:$PATH\n'
    text = text.replace('export PYTHONPATH=$PWD\n', head) if 'export PYTHONPATH' in text else head + text
    return subprocess.run(['bash', '-e', '-c', text], cwd=folder, capture_output=True, text=True, env={**os.environ})


@pytest.fixture(scope='module')
def project(tmp_path_factory):
    """The page's project, after its commands; its folder, its last Python block and what the commands wrote."""
    folder = tmp_path_factory.mktemp('extend')
    (folder / 'tools').symlink_to(ROOT / 'tools')
    commands, after = '', ''
    for kind, body in BLOCK.findall((ROOT / 'docs' / 'extend.md').read_text(encoding='utf-8')):
        if named := re.match(r'# (\S+\.py)\n', body):
            file = folder / named[1]
            file.parent.mkdir(exist_ok=True)
            file.write_text(body)
        elif kind == 'bash':
            commands += body
        else:
            after = body
    done = shell(folder, commands)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, after, done.stdout


def test_the_page_trains_resumes_exports_and_answers(project):
    folder, after, said = project
    assert said.rstrip().endswith('a red cup')
    assert 'resumed' in said
    assert re.search(r'validation after iter 30 .*exact_match 1\.0000, colour 1\.0000', said)
    done = shell(folder, f'cat > after.py <<END\n{after}\nEND\npython after.py')
    assert (done.stdout.strip(), done.returncode) == ('a blue cup', 0), done.stderr


def test_names_that_are_stored_are_those_of_the_registry(project):
    folder, _, _ = project
    config = json.loads((folder / 'exported' / 'shop' / 'config.json').read_text())
    assert config['code'] == ['myproject.parts']
    assert (config['model']['vision']['type'], config['model']['projector']['type']) == ('TwoMaps', 'Pooled')
    (last, *_) = sorted(folder.glob('work_dirs/shop/iter_*.pth'), key=lambda path: -path.stat().st_mtime)
    meta = torch.load(last, weights_only=True)['meta']
    assert meta['config']['model']['vision']['type'] == 'TwoMaps'


def test_the_frozen_tower_is_the_one_of_the_file(project):
    folder, _, _ = project
    start = load_file(folder / 'pretrained' / 'two_maps.safetensors')
    end = load_file(folder / 'exported' / 'shop' / 'model.safetensors')
    assert any(name.endswith('running_var') for name in start)
    assert all(torch.equal(end[f'vision.{name}'], value) for name, value in start.items())


def test_unasked_nothing_of_it_is_imported(project):
    folder, _, _ = project
    done = shell(folder, 'echo hi | mmft chat exported/shop')
    assert done.returncode == 1
    assert '--allow-code myproject.parts' in done.stderr
