"""docs/architecture.md: the map is the house as it stands, every file it names exists, and what it says can be done is.

The rows of "To change X, open Y" name the test that shows them. Those without a test of their own are shown here, from
a package outside the tree.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from mmft.data.text.templates import build_template
from mmft.engine.hooks.defaults import build_hook
from mmft.registry import HOOKS, LANGUAGE_MODELS, TEMPLATES, USER_CODE
from mmft.user_code import allow_code
from tests.test_house import LEVELS, PACKAGE, ROOT

PAGE = (ROOT / 'docs' / 'architecture.md').read_text(encoding='utf-8')
FILES = [
    str(path.relative_to(ROOT)) for top in ('mmft', 'tests', 'tools', 'configs') for path in (ROOT / top).rglob('*')
]


def section(title: str) -> str:
    """The text under a heading, up to the next of its level."""
    return PAGE.split(f'\n## {title}\n')[1].split('\n## ')[0]


def rows(text: str) -> list[list[str]]:
    """The cells of a table's rows, without its head."""
    lines = [line for line in text.splitlines() if line.startswith('|')]
    return [[cell.strip() for cell in line.strip('|').split('|')] for line in lines[2:]]


def test_the_map_has_the_rooms_that_exist():
    picture = section('The map').split('```text\n')[1].split('```')[0]
    floors = [set(line.partition('|')[0].split()) for line in picture.splitlines() if '|' in line]
    packages = {path.parent.name for path in PACKAGE.glob('*/__init__.py')}
    assert floors == [level & packages for level in reversed(LEVELS) if level & packages]
    assert set().union(*floors) == packages


def test_every_file_it_names_exists():
    named = set(re.findall(r'(?<![\w/.-])[\w/]+\.(?:py|c)\b', PAGE))
    assert len(named) > 60
    assert not [name for name in sorted(named) if not any(f'/{file}'.endswith(f'/{name}') for file in FILES)]


def test_every_folder_it_names_exists():
    named = {name.rstrip('/') for name in re.findall(r'(?<![\w/.<-])(?:[a-z_]+/)+(?![\w*])', PAGE)}
    folders = {str(Path(file).parent) for file in FILES}
    assert 'engine/strategies' in named
    assert not [name for name in sorted(named) if not any(f'/{folder}'.endswith(f'/{name}') for folder in folders)]


def test_what_it_names_in_a_file_is_there():
    named = re.findall(r'`(\w+)` (?:in|of) (?:its )?`([\w/]+\.py)`', PAGE)
    named += [(name, file) for file, text in re.findall(r'`([\w/]+\.py)` \| (.*)', section('The core in an hour'))
              for name in re.findall(r'`([A-Za-z]\w*)', text.split(';')[0])]  # fmt: skip
    assert len(named) > 12
    for name, file in named:
        texts = [(ROOT / path).read_text(encoding='utf-8') for path in FILES if f'/{path}'.endswith(f'/{file}')]
        assert any(re.search(rf'\b{name}\b', text) for text in texts), f'{name} in {file}'


def test_the_reading_order_is_an_hour():
    files = [re.findall(r'`(.*?)`', row[1])[0] for row in rows(section('The core in an hour'))]
    assert 8 <= len(files) <= 14
    assert sum(len((ROOT / file).read_text(encoding='utf-8').splitlines()) for file in files) < 2500


def test_every_change_is_shown_by_a_test():
    changes = rows(section('To change X, open Y'))
    assert len(changes) >= 12
    for change, files, shown in changes:
        assert any((ROOT / name).exists() for name in re.findall(r'`(mmft/.*?)`', files)), change
        tests = re.findall(r'`(tests/.*?\.py)`', shown)
        assert tests, change
        assert all((ROOT / name).is_file() for name in tests), change


OUTSIDE = """
from dataclasses import replace
from mmengine.hooks import Hook
from mmft.data.text.templates import build_template, register_template
from mmft.models.language.family import Family
from mmft.models.language.causal_lm import CausalLM
from mmft.registry import HOOKS, LANGUAGE_MODELS

register_template(replace(build_template('chatml_newline'), name='zz_chat', end='<|zz_end|>'))

@HOOKS.register_module()
class ZzHook(Hook):
    def __init__(self, every=1):
        self.every = every

@LANGUAGE_MODELS.register_module()
class ZzOlmo(CausalLM):
    family = Family(architecture='OlmoForCausalLM', model_type='olmo', template='zz_chat')
"""


@pytest.fixture
def outside(tmp_path, monkeypatch):
    """A package outside the tree with a template, a hook and a language model; allowed by its name."""
    (tmp_path / 'zz_outside.py').write_text(OUTSIDE)
    monkeypatch.syspath_prepend(tmp_path)
    for registry in (HOOKS, LANGUAGE_MODELS, TEMPLATES):
        registry.import_from_location()
    allow_code('zz_outside')
    yield
    tables = (HOOKS.module_dict, LANGUAGE_MODELS.module_dict, TEMPLATES.module_dict, USER_CODE.modules, sys.modules)
    for table in tables:
        for name in [name for name in table if name.lower().startswith('zz')]:
            del table[name]


def test_a_template_from_outside_the_tree(outside):
    template = build_template('zz_chat')
    messages = [{'role': 'user', 'content': 'hi'}, {'role': 'assistant', 'content': 'yes'}]
    assert template.text(messages, False).endswith('yes<|zz_end|>\n')
    assert build_template(dict(type='zz_chat', end='!')).end == '!'


def test_a_hook_from_outside_the_tree(outside):
    hook, _ = build_hook(dict(type='ZzHook', every=3))
    assert hook.every == 3


def test_a_language_model_from_outside_the_tree(outside):
    """One descriptor: layouts find it in a directory's config and write it back; nothing else names it."""
    from mmft.layouts.language import family_of, language_model, published_config

    sizes = dict(vocab_size=32, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    config = {'model_type': 'olmo', 'architectures': ['OlmoForCausalLM'], **sizes}
    assert family_of(config) == 'ZzOlmo'
    llm = LANGUAGE_MODELS.build(language_model(config, 'a directory'))
    assert type(llm.lm).__name__ == 'OlmoForCausalLM'
    assert llm.vocab_size == 32
    written = published_config('ZzOlmo', llm.lm.config)
    assert {name: written[name] for name in config} == config
