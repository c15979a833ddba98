"""``--cfg-options key.sub=value``: what a value is, and where in a config it goes. Never silently."""

from __future__ import annotations

import argparse
import ast
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mmft.cli.other_flags import place_of
from mmft.errors import ConfigError
from mmft.python_text import literal
from mmft.words import clipped, near_names, suggested

if TYPE_CHECKING:
    from mmengine.config import Config

__all__ = ['add_cfg_options', 'apply_options', 'parse_value']

_WORDS = {'None': None, 'none': None, 'null': None, 'True': True, 'true': True, 'False': False, 'false': False,
          'inf': float('inf')}  # fmt: skip
_CLOSERS = {'[': ']', '(': ')', '{': '}'}


def add_cfg_options(parser: argparse.ArgumentParser, help_text: str) -> None:
    """``--cfg-options`` of a command; given several times, all of them count."""
    parser.add_argument('--cfg-options', nargs='+', action='extend', metavar='KEY=VALUE', default=[], help=help_text)


def apply_options(cfg: Config, options: Sequence[str] | None) -> None:
    """Change ``cfg`` in place by ``key.sub=value`` strings.

    A path that is not in the config is an error, since such an option would change nothing; ``+key.sub=value`` says
    that it is meant to be new. A setting that any config may have (``tf32``) needs no plus.

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
            _set(cfg, key.removeprefix('+').split('.'), parse_value(key, text), new=key.startswith('+'))
        except ConfigError as error:
            problems.append(error)
    if problems:
        raise ConfigError.gather(problems)


# -- the value ---------------------------------------------------------------------------------------------------------


def parse_value(name: str, text: str) -> Any:
    """The value that ``text`` stands for: text as it is, unless it is a literal of Python's.

    Literals are numbers, ``True``, ``False``, ``None`` (also in lower case), quoted text, and lists, tuples and dicts
    in brackets or as ``dict(...)``. Words of a list need no quotes: ``[q_proj,v_proj]``. Nothing is executed.

    Args:
        name: the option's, for the message.

    Raises:
        ConfigError: a list or dict that cannot be read.

    >>> [parse_value('', text) for text in ('1e-5', '/my runs/a, b', '[a,1]', '1,2', '"1"', "dict(r=4)")]
    [1e-05, '/my runs/a, b', ['a', 1], '1,2', '1', {'r': 4}]
    """
    bare = text.strip()
    if bare in _WORDS:
        return _WORDS[bare]
    is_call = bare.startswith('dict(')
    opener = '(' if is_call else bare[:1]
    if opener not in _CLOSERS:
        value = _literal_or(bare, text, (int, float, str))
        if isinstance(value, str) and value.startswith('dict(') and value is not text:
            raise _no_value(name, text, f'{clipped(text)} cannot be read: a dict needs no quotes of its own')
        return value
    end = _closing(bare[4 * is_call :])
    if end is None and (is_call or opener != '{' or ':' in bare):
        raise _no_value(name, text, f'Imbalanced brackets: {clipped(text)} cannot be read')
    if end != len(bare) - 4 * is_call - 1:
        return text  # such as "[INST] Be brief."
    value = _literal_or(bare, text, (list, tuple, dict))
    if value is not text:
        return value
    if opener == '[':
        try:
            return [parse_value(name, item.strip()) for item in _items(bare[1:-1])]
        except RecursionError:
            raise _no_value(name, text, f'{clipped(text)} is nested too deeply') from None
    if is_call or (opener == '{' and ':' in bare):
        raise _no_value(name, text, f'{clipped(text)} cannot be read')
    return text  # such as "(Be brief.)"


def _literal_or(bare: str, text: str, kinds: tuple[type, ...]) -> Any:
    """The literal that all of ``bare`` is, where it is one of ``kinds``; else ``text``."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # Python warns of "1and" and of "\\d" in quotes
            node = ast.parse(bare, mode='eval').body
        whole = node.col_offset == 0 and node.end_col_offset == len(bare.encode().splitlines()[-1])
        value = literal(node, _WORDS) if whole else None
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError, IndexError):
        return text
    return value if type(value) in kinds else text


def _depths(text: str) -> Iterator[tuple[int, str, int]]:
    """Position and character of ``text`` outside of quotes, and how many brackets are open behind it."""
    depth, quote = 0, ''
    for i, character in enumerate(text):
        if quote:
            quote = '' if character == quote and text[i - 1] != '\\' else quote
            continue
        # An apostrophe inside a word quotes nothing.
        if character in '"\'' and not text[i - 1 : i].isalnum():
            quote = character
        depth += (character in _CLOSERS) - (character in _CLOSERS.values())
        yield i, character, depth


def _closing(text: str) -> int | None:
    """Where the bracket that ``text`` starts with is closed."""
    return next((i for i, _, depth in _depths(text) if depth == 0), None)


def _items(text: str) -> list[str]:
    """``text`` divided at the commas outside of brackets and quotes; a comma at the end divides nothing."""
    commas = [i for i, character, depth in _depths(text) if character == ',' and depth == 0]
    items = [text[start + 1 : end] for start, end in zip([-1, *commas], [*commas, len(text)], strict=True)]
    return items if items[-1].strip() else items[:-1]


def _no_value(name: str, text: str, what: str) -> ConfigError:
    return ConfigError(
        f'--cfg-options {name}: {what}',
        expected='text, a number, a list as [1,2] or a dict as Python writes it',
        fix=f'quote the whole option in the shell: \'{name}=dict(type="lora", r=4)\'; text that looks like a list or '
        f'dict needs quotes of its own: \'{name}="[...]"\'',
    )


# -- its place ---------------------------------------------------------------------------------------------------------


def _set(cfg: Any, path: list[str], value: Any, new: bool) -> None:
    node: Any = cfg
    for depth, key in enumerate(path):
        last = depth == len(path) - 1
        if isinstance(node, (list, tuple)):
            if not key.isdecimal() or int(key) >= len(node):
                raise _unknown(path, depth, [str(i) for i in range(len(node))])
            index = int(key)
            if last and isinstance(node, list):
                node[index] = value
                return
            if last:
                raise _in_a_tuple(path, node)
            node = node[index]
            continue
        if not isinstance(node, Mapping) and depth:
            raise _nothing_inside(path, depth, node, value)
        if key not in node and not new and not (depth == 0 and last and _is_setting(key)):
            raise _unknown(path, depth, list(node.keys()))
        if last:
            node[key] = value
        elif key not in node or node[key] is None:
            node[key] = {}
        node = node[key]


def _is_setting(key: str) -> bool:
    """Whether every config may have this key: it needs no plus to be new."""
    from mmft.engine.judging.config import KNOWN_KEYS

    return key in KNOWN_KEYS


def _in_a_tuple(path: list[str], node: tuple) -> ConfigError:
    name, where = '.'.join(path), '.'.join(path[:-1])
    return ConfigError(
        f'--cfg-options {name}: {where} is the tuple {node!r}, of which no item can be set',
        fix=f"set it whole: '{where}=(...)'",
    )


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
    near = ['.'.join([*path[:depth], name]) for name in near_names(path[depth], known, 2, 0.5)]
    name = '.'.join(path)
    suggestion = suggested(near, form=str)
    add = f'to add a new key write +{name}=...'
    if len(path) == 1 and (place := place_of(name)):
        suggestion = f'write --cfg-options {place}'
    return ConfigError(
        f'--cfg-options {name}: {where} has no {path[depth]!r}',
        expected=f'one of {sorted(map(str, known))}',
        fix=f'{suggestion} ({add})' if suggestion else add,
    )
