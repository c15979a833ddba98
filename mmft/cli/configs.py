"""Configs on the command line: found by path or bare name, changed with ``--cfg-options``, never silently."""

from __future__ import annotations

import ast
import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmft.errors import ConfigError

if TYPE_CHECKING:
    from mmengine.config import Config

__all__ = ['apply_options', 'config_folders', 'find_config', 'list_configs', 'load_config']


def config_folders() -> list[Path]:
    """Where bare names are looked up: ``./configs``, those of the checkout, those installed with the package."""
    package = Path(__file__).resolve().parents[1]
    folders = [Path.cwd() / 'configs', package.parent / 'configs', package / '_configs']
    seen: dict[Path, Path] = {}
    for folder in folders:
        if folder.is_dir():
            seen.setdefault(folder.resolve(), folder)
    return list(seen.values())


def list_configs() -> dict[str, Path]:
    """Every config by its bare name."""
    found: dict[str, Path] = {}
    for folder in config_folders():
        for file in sorted(folder.rglob('*.py')):
            if '_base_' not in file.parts and not file.name.startswith('_'):
                found.setdefault(file.stem, file)
    return found


def find_config(name: str) -> Path:
    """A config by path, or by bare name with or without ``.py``.

    Raises:
        ConfigError: there is none; names the nearest.
    """
    path = Path(name)
    if path.is_file():
        return path
    known = list_configs()
    if path.stem in known and len(path.parts) == 1:
        return known[path.stem]
    near = difflib.get_close_matches(path.stem, known, n=3, cutoff=0.4)
    raise ConfigError(
        f'no config {name!r}',
        expected=f'a file, or a name from {", ".join(map(str, config_folders())) or "a folder ./configs"}',
        fix=f'did you mean {" or ".join(near)}?' if near else 'see the folder for what there is',
    )


def load_config(name: str, options: Sequence[str] | None = None) -> Config:
    """Read a config and apply ``--cfg-options``.

    Args:
        name: path or bare name.
        options: ``key=value`` strings.

    Raises:
        ConfigError: not found, not valid Python, or an option that names nothing in it.
    """
    from mmengine.config import Config

    path = find_config(name)
    try:
        cfg = Config.fromfile(path)
    except ConfigError:
        raise
    except Exception as error:  # a config is Python: it can fail in any way
        raise ConfigError(f'{path}: {type(error).__name__}: {error}', fix='mend the config') from error
    apply_options(cfg, options)
    return cfg


def apply_options(cfg: Config, options: Sequence[str] | None) -> None:
    """Change ``cfg`` in place by ``key.sub=value`` strings.

    A path that is not in the config is an error, since such an option would change nothing; ``+key.sub=value`` says
    that it is meant to be new.

    Raises:
        ConfigError: lists every wrong option.
    """
    problems: list[ConfigError | str] = []
    for option in options or ():
        key, sign, text = option.partition('=')
        if not sign or not key.strip('+'):
            problems.append(f'--cfg-options {option!r}: expected key=value')
            continue
        try:
            _set(cfg, key.removeprefix('+').split('.'), _value(key, text), new=key.startswith('+'))
        except ConfigError as error:
            problems.append(error)
    if problems:
        raise ConfigError.gather(problems)


def _value(name: str, text: str) -> Any:
    from mmengine.config import DictAction

    if text in ('None', 'none', 'null'):
        return None
    if text.startswith(('{', 'dict(')):
        return _dict(name, text)
    try:
        return DictAction._parse_iterable(text)
    except AssertionError as error:  # brackets that do not match
        what, fix = f'--cfg-options {name}: {error}', 'close every bracket; quote the option in the shell'
        raise ConfigError(what, fix=fix) from None
    except RecursionError:  # mmengine finds commas, but none outside of brackets
        raise _no_value(name, text) from None


def _dict(name: str, text: str) -> Any:
    """``dict(type='lora', r=4)`` or ``{'type': 'lora', 'r': 4}``, nested at will; nothing is executed."""
    try:
        return _literal(ast.parse(text, mode='eval').body)
    except (SyntaxError, ValueError, TypeError):
        raise _no_value(name, text) from None


def _literal(node: ast.expr) -> Any:
    if isinstance(node, ast.Call):
        if not isinstance(node.func, ast.Name) or node.func.id != 'dict' or node.args:
            raise ValueError('a call')
        return {str(keyword.arg): _literal(keyword.value) for keyword in node.keywords}
    if isinstance(node, ast.Dict):
        return {_literal(key): _literal(value) for key, value in zip(node.keys, node.values, strict=True)}
    if isinstance(node, (ast.List, ast.Tuple)):
        items = [_literal(item) for item in node.elts]
        return items if isinstance(node, ast.List) else tuple(items)
    return ast.literal_eval(node)


def _no_value(name: str, text: str) -> ConfigError:
    return ConfigError(
        f'--cfg-options {name}: {text} cannot be read',
        expected='a word, a number, a list as [1,2] or a dict as Python writes it',
        fix=f'quote the whole option in the shell: \'{name}=dict(type="lora", r=4)\'',
    )


def _set(cfg: Any, path: list[str], value: Any, new: bool) -> None:
    node: Any = cfg
    for depth, key in enumerate(path):
        last = depth == len(path) - 1
        if isinstance(node, (list, tuple)):
            if not key.isdigit() or int(key) >= len(node):
                raise _unknown(path, depth, [str(i) for i in range(len(node))])
            index = int(key)
            if last and isinstance(node, list):
                node[index] = value
                return
            node = node[index]
            continue
        if not isinstance(node, Mapping) and depth:
            raise _nothing_inside(path, depth, node, value)
        if key not in node and not new:
            raise _unknown(path, depth, list(node.keys()))
        if last:
            node[key] = value
        elif key not in node or node[key] is None:
            node[key] = {}
        node = node[key]


def _nothing_inside(path: list[str], depth: int, node: Any, value: Any) -> ConfigError:
    name, where = '.'.join(path), '.'.join(path[:depth])
    if path[depth:] == ['type']:  # a name stands for a dict of that type: tune.vision='frozen'
        whole = f'{where}={value}'
    elif isinstance(node, str):
        whole = f"'{where}=dict(type=..., {path[depth]}=...)'"
    else:
        whole = f'{where}=...'
    return ConfigError(
        f'--cfg-options {name}: {where} is {node!r}, which has nothing inside', fix=f'set it whole: {whole}'
    )


def _unknown(path: list[str], depth: int, known: list[str]) -> ConfigError:
    where = '.'.join(path[:depth]) or 'the config'
    known = [name for name in known if name != 'read_base']  # mmengine keeps its import as a key
    near = difflib.get_close_matches(path[depth], known, n=2, cutoff=0.5)
    name = '.'.join(path)
    suggestion = f'did you mean {" or ".join(".".join([*path[:depth], n]) for n in near)}? ' if near else ''
    return ConfigError(
        f'--cfg-options {name}: {where} has no {path[depth]!r}',
        expected=f'one of {sorted(map(str, known))}',
        fix=f'{suggestion}(to add a new key write +{name}=...)',
    )
