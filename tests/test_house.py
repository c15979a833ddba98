"""Rules of the house: layers, one place per foreign library, cheap imports, docstrings that run."""

from __future__ import annotations

import ast
import doctest
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / 'mmft'
FILES = sorted(PACKAGE.rglob('*.py'))

# A package may import from its own level and from those below it; models and data never import each other.
LEVELS = [{'registry', 'user_code', 'structures', 'errors', 'backends', 'checks', 'disk', 'file_names', 'geometry',
           'gguf_files', 'json_files', 'machine', 'missing', 'moved', 'pages', 'plain_json', 'ports', 'python_text',
           'quiet', 'words'},
          {'models', 'data'}, {'files'}, {'layouts'}, {'checkpoint'}, {'evaluation'}, {'engine'}, {'export'}, {'talk'},
          {'serve', 'compare'}, {'cli'}]  # fmt: skip
# peft's second file is a class on its own, so that the first can be imported without peft.
FILES_OF = {'peft': {'models/lora.py', 'models/lora_linear.py'}, 'lmdeploy': set(),
            'deepspeed': {'engine/strategies/deepspeed.py'}, 'bitsandbytes': {'models/quantize.py'},
            'gguf': {'files/gguf.py'},
            'timm': {'models/vision/timm_vit.py', 'models/vision/timm_backbone.py'},
            'gradio': {'talk/webui.py'}}  # fmt: skip


def imports(path: Path) -> list[str]:
    """Every module that a file imports, at its top or inside a function."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.append(node.module)
    return found


def module_of(path: Path) -> str:
    return '.'.join(('mmft', *path.relative_to(PACKAGE).with_suffix('').parts)).removesuffix('.__init__')


MODULES = [module_of(path) for path in FILES]
# Circles that stand today, each with the reason; a new one is a failure, and so is one here that is gone.
CIRCLES: list[set[str]] = []


def imported_files(path: Path) -> set[str]:
    """The modules of mmft that a file imports anywhere: at its top, in a function, or for annotations alone."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = {f'{node.module}.{alias.name}' for alias in node.names}
            found |= {name if name in MODULES else node.module for name in names}
    return found.intersection(MODULES) - {'mmft', module_of(path)}  # the public face imports late, from anywhere


def circles(graph: dict[str, set[str]]) -> list[set[str]]:
    """Sets of modules that reach each other."""
    reached: dict[str, set[str]] = {}
    for start in graph:
        seen, todo = set(), [start]
        while todo:
            new = graph[todo.pop()] - seen
            seen |= new
            todo += new
        reached[start] = seen
    found = {frozenset(b for b in graph if b in reached[a] and a in reached[b]) for a in graph if a in reached[a]}
    return [set(circle) for circle in found]


def test_no_file_circles():
    found = circles({module_of(path): imported_files(path) for path in FILES})
    assert sorted(map(sorted, found)) == sorted(map(sorted, CIRCLES))


def test_circles_are_found():
    assert circles({'a': {'b'}, 'b': {'c'}, 'c': {'a'}, 'd': {'a'}}) == [{'a', 'b', 'c'}]


def level(name: str) -> int:
    """The level of a package or module directly in mmft."""
    return next(i for i, names in enumerate(LEVELS) if name in names)


def test_there_are_files():
    assert len(FILES) > 40


@pytest.mark.parametrize('path', FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_layers(path):
    parts = path.relative_to(PACKAGE).with_suffix('').parts
    own = parts[0]
    if own == '__init__':
        return  # the public face imports late, from anywhere
    for module in imports(path):
        pieces = module.split('.')
        if pieces[0] == 'tools':
            pytest.fail(f'{path} imports from tools')
        if pieces[0] != 'mmft' or len(pieces) == 1:
            continue
        other = pieces[1]
        assert level(other) <= level(own), f'{path} ({own}) imports {module}'
        if {own, other} == {'models', 'data'}:
            pytest.fail(f'{path} ({own}) imports {module}')


@pytest.mark.parametrize('library', FILES_OF)
def test_one_place_per_library(library):
    # engine/compat.py is the place for workarounds of any library.
    users = {str(p.relative_to(PACKAGE)) for p in FILES if any(m.split('.')[0] == library for m in imports(p))}
    assert users - {'engine/compat.py'} == FILES_OF[library]


@pytest.mark.parametrize('path', FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_open_with_what_they_are(path):
    assert ast.get_docstring(ast.parse(path.read_text(encoding='utf-8')))


@pytest.mark.parametrize('path', FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_method_is_a_stub(path):
    """What a subclass must bring is abstract; what it does not need is not asked of it."""
    raised = [node.exc for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))) if isinstance(node, ast.Raise)]
    assert not [exc for exc in raised if exc is not None and 'NotImplemented' in ast.dump(exc)]


def test_docstring_examples():
    ran = 0
    for name in MODULES:
        result = doctest.testmod(importlib.import_module(name))
        assert result.failed == 0, f'{name}: {result.failed} docstring examples fail'
        ran += result.attempted
    assert ran >= 15


# Timed asserts lie on a busy machine; what an import pulls in does not.
CHEAP = {
    'import mmft': ['-c', 'import mmft, sys; print(*sys.modules)'],
    'train --help': ['-X', 'importtime', 'tools/train.py', '--help'],
    'pth_to_hf --help': ['-X', 'importtime', 'tools/pth_to_hf.py', '--help'],
    'webui --help': ['-X', 'importtime', 'tools/webui.py', '--help'],
    'demo --help': ['-X', 'importtime', 'tools/demo.py', '--help'],
}


@pytest.mark.parametrize('arguments', CHEAP.values(), ids=CHEAP.keys())
def test_no_heavy_import(arguments):
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = {word.split('.')[0] for word in (done.stdout + done.stderr).split()}
    assert 'argparse' in loaded or 'mmft' in loaded
    assert not loaded & {'torch', 'transformers', 'mmengine', 'numpy', 'PIL'}


def test_wrong_arguments_exit_non_zero():
    done = subprocess.run([sys.executable, 'tools/train.py'], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert 'required' in done.stderr


def functions(path):
    return [node for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))) if isinstance(node, ast.FunctionDef)]


def asserts(function, helpers=frozenset()):
    """Whether a function asserts: by itself, by pytest, or by a function of one of these names."""
    calls = [getattr(n.func, 'attr', getattr(n.func, 'id', '')) for n in ast.walk(function) if isinstance(n, ast.Call)]
    by_name = any(name in {'raises', 'fail', 'warns'} | helpers or name.startswith('assert') for name in calls)
    return by_name or any(isinstance(node, ast.Assert) for node in ast.walk(function))


def test_every_test_asserts_something():
    written = [(path, function) for path in sorted((ROOT / 'tests').rglob('*.py')) for function in functions(path)]
    helpers = {function.name for _, function in written if asserts(function) and not function.name.startswith('test_')}
    tests = [(path, function) for path, function in written if function.name.startswith('test_')]
    assert len(tests) > 500
    assert not [f'{path}:{function.lineno}' for path, function in tests if not asserts(function, helpers)]
