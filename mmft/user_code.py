"""How code of the user's own is imported: named in a config, or allowed by name where a file asks for it.

A Python config runs anyway, so it may name code in any way: ``custom_imports=dict(imports=['mypackage.towers'])``, an
import, ``type=MyTower`` or ``type='mypackage.towers.MyTower'``. ``resolve_code`` imports all of that as soon as the
config is read and leaves names that the registries know. Directories and checkpoints say which modules their parts
come from (``"code": ["mypackage.towers"]``); ``require_code`` refuses those that the user did not name, in a
config or with ``allow_code``. Nothing else in mmft imports a module by a name from outside.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import logging
import os
import re
import sys
import types
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from mmengine.config import Config
from mmengine.config.lazy import LazyAttr, LazyObject

from mmft.errors import CheckpointError, ConfigError, first_line
from mmft.registry import USER_CODE, registered_name, registries
from mmft.words import clipped, near_names

__all__ = ['allow_code', 'code_of', 'how_to_import', 'name_of', 'require_code', 'resolve_code']

logger = logging.getLogger(__name__)

_LAZY = (LazyObject, LazyAttr)
_LIBRARIES = {'mmft', 'mmengine', 'torch', 'transformers', *sys.stdlib_module_names}
"""Packages whose parts need no ``code``: they are there wherever mmft is."""


def allow_code(modules: str | Iterable[str], where: str = 'allow_code') -> None:
    """Import modules that the user named, so that files may use their parts.

    Args:
        modules: dotted names.
        where: for messages.

    Raises:
        ConfigError: not a module of the user's own, or it cannot be imported.
    """
    for name in [modules] if isinstance(modules, str) else modules:
        if not _is_module_name(name):
            raise ConfigError(f'{where} {clipped(repr(name))}', expected="a module of your own: 'mypackage.towers'")
        USER_CODE.modules[name] = _import(name, where)


def require_code(named: Any, where: Any) -> None:
    """Refuse a file whose ``code`` names modules that the user did not.

    Args:
        named: what it names: text, a list of texts or None.
        where: the file, for the message.

    Raises:
        CheckpointError: says what allows them.
    """
    names = [named] if isinstance(named, str) else [] if named is None else named
    if not isinstance(names, (list, tuple)) or not all(map(_is_module_name, names)):
        raise CheckpointError(
            f'{where}: code = {clipped(repr(named))}', expected="names of modules, such as ['mypackage.towers']"
        )
    if missing := [name for name in names if name not in USER_CODE.modules]:
        flags = ' '.join(f'--allow-code {name}' for name in missing)
        raise CheckpointError(
            f'{where} has parts that are not of mmft: it asks to import {", ".join(missing)}',
            expected='code that you know, since it runs with all your rights',
            fix=f'if these modules are yours: {flags}, or mmft.load(..., allow_code={missing})',
        )


def code_of(*values: Any) -> list[str]:
    """The user's modules whose parts the ``type`` keys in ``values`` name, at any depth."""
    found = {part.__module__ for kind in _types(values) for part in _named(kind)}
    return sorted(module for module in found if _is_user_code(module))


def name_of(part: Any) -> str | None:
    """The ``type`` by which a class is found: as registered, or as a config names it; None where it is not."""
    name = registered_name(part)
    return name or (path if USER_CODE.get(path := _path(part)) is part else None)


def resolve_code(cfg: Config) -> Config:
    """Import the code that a config names, in place; afterwards every ``type`` is a name that registries look up.

    The modules that it takes stand in ``custom_imports`` from then on: the copies of the config in the work_dir and in
    checkpoints have no imports.

    Raises:
        ConfigError: a module that cannot be imported, with the cause, a class that is found nowhere by its name, or
            values that no copy of the config can hold, such as functions; names all of these.
    """
    settings = _custom_imports(cfg.get('custom_imports'))
    wanted = [name for name in settings['imports'] if _imported(name, settings['allow_failed_imports'])]
    content = cfg._cfg_dict
    for name in getattr(cfg, '_imported_names', ()):
        value = dict.get(content, name)
        if isinstance(value, _LAZY):  # an import of the config; what it is used for has the value already
            _built(value, name)
            wanted += _modules_of(value)
            dict.pop(content, name)
    for name, value in list(dict.items(content)):
        # Helpers that the config defines. (Without read_base mmengine drops the functions itself.)
        if isinstance(value, (type, types.FunctionType)) and value.__name__ == name:
            dict.pop(content, name)
    _resolve(content, '')
    if problems := [*_unwritable(content, '')]:
        raise ConfigError.gather(problems)
    wanted = [*dict.fromkeys([*wanted, *code_of(content)])]
    USER_CODE.modules.update({name: sys.modules[name] for name in wanted})
    if lost := set(wanted) - set(settings['imports']):
        settings['imports'] += [name for name in wanted if name in lost]
        cfg.custom_imports = settings
    return cfg


# -- what a config says ------------------------------------------------------------------------------------------------


def _custom_imports(value: Any) -> dict[str, Any]:
    settings = {'imports': [], 'allow_failed_imports': False, **(value if isinstance(value, Mapping) else {})}
    if isinstance(settings['imports'], str):
        settings['imports'] = [settings['imports']]
    wrong = set(settings) - {'imports', 'allow_failed_imports'} or not isinstance(settings['imports'], (list, tuple))
    if wrong or not (value is None or isinstance(value, Mapping)) or not all(map(_is_name, settings['imports'])):
        raise ConfigError(
            f'custom_imports = {clipped(repr(value))}', expected="dict(imports=['mypackage.towers']), names of modules"
        )
    return {**settings, 'imports': list(settings['imports'])}


def _imported(name: str, may_fail: bool) -> bool:
    try:
        _import(name, 'custom_imports')
    except ConfigError as error:
        if not (may_fail and isinstance(error.__cause__, ImportError)):
            raise
        logger.warning(f'{error.what}; the config allows that')
        return False
    return True


def _modules_of(lazy: LazyObject) -> list[str]:
    """Import what an import of a config names; returns the user's modules among it."""
    names = [lazy._module] if isinstance(lazy._module, str) else list(lazy._module)
    for name in names:
        module = _import(name, lazy.location)
        if lazy._imported is not None and not hasattr(module, lazy._imported):
            with contextlib.suppress(ImportError):  # from mypackage import towers, which mmengine takes for no module
                names.append(importlib.import_module(f'{name}.{lazy._imported}').__name__)
    return [name for name in names if _is_user_code(name)]


def _resolve(value: Any, where: str) -> Any:
    """``value`` with names in place of code. mmengine's dicts build lazy imports when asked, so they are not asked."""
    if isinstance(value, dict):
        for key, item in list(dict.items(value)):
            there = f'{where}.{key}' if where else str(key)
            dict.__setitem__(value, key, _name(item, there) if key == 'type' else _resolve(item, there))
    elif isinstance(value, (list, tuple)) and not hasattr(value, '_fields'):
        return type(value)(_resolve(item, f'{where}.{number}') for number, item in enumerate(value))
    elif isinstance(value, _LAZY):
        built = _built(value, where)
        return built if built is None or isinstance(built, (str, int, float, list, tuple, dict)) else value
    elif isinstance(value, os.PathLike):
        return os.fspath(value)
    return value


def _unwritable(value: Any, where: str) -> Iterator[ConfigError]:
    """Values without a Python text, which the copies of the config in the work_dir and in checkpoints need."""
    if isinstance(value, (dict, list, tuple)):
        for key, item in dict.items(value) if isinstance(value, dict) else enumerate(value):
            yield from _unwritable(item, f'{where}.{key}' if where else str(key))
    elif not isinstance(value, (str, int, float, type(None), *_LAZY)):
        try:
            ast.parse(str(value), mode='eval')
        except Exception:  # whatever the class of the value makes of ``str``
            yield ConfigError(
                f'{where} = {clipped(object.__repr__(value))}',
                expected='a number, text, None, or lists and dicts of them: the config is written into the work_dir',
                fix='put the code into a module of your own, as a class that `type` names',
            )


def _name(kind: Any, where: str) -> Any:
    """The name that registries know a ``type`` by."""
    part = _built(kind, where) if isinstance(kind, _LAZY) else kind
    if isinstance(part, str):
        scope, dot, name = part.partition('.')
        if not dot or (found := next(_named(part, load=True), None)) is not None:
            return (registered_name(found) or part) if dot else part
        if scope in ('mmft', 'mmengine') and next(_named(name, load=True), None) is not None:
            return name
        part = _at(part, where)
    if not callable(part):
        return part
    for registry in registries():
        registry.import_from_location()
    if (name := registered_name(part)) is not None:
        return name
    path, module = _path(part), getattr(part, '__module__', None)
    there = vars(sys.modules[module]) if module in sys.modules and module != '__main__' else {}
    if there.get(path.rpartition('.')[2]) is not part:
        raise ConfigError(
            f'{where}.type is {clipped(path)}, which no module holds under this name',
            expected='a class or function at the top of a module',
            fix='move it there, and import it in the config',
        )
    USER_CODE.named[path] = part
    return path


def _at(path: str, where: str) -> Any:
    """What a dotted path names; the path itself where it is more like a misspelt name of a registry."""
    module, _, name = path.rpartition('.')
    known = [name for registry in registries() for name in registry.module_dict if '.' in name]
    if near_names(path, known, cutoff=0.8):
        return path
    found = getattr(_import(module, where), name, None)
    if found is None:
        raise ConfigError(f'{where}: {module} has no {name!r}', fix='correct the path')
    return found


def _built(lazy: Any, where: str) -> Any:
    root = lazy
    while isinstance(root, LazyAttr):
        root = root.source
    try:
        _modules_of(root)
        return lazy.build()
    except ConfigError:
        raise
    except (Exception, SystemExit) as error:
        raise _failed(f'{lazy.module}.{lazy}', root.location or where, error) from error


def _import(name: str, where: str) -> Any:
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:  # the code of a module can fail in any way
        raise _failed(name, where, error) from error


def _failed(name: str, where: str, error: BaseException) -> ConfigError:
    what = f'{where}: {name} cannot be imported: {type(error).__name__}: {first_line(error)}'
    return ConfigError(what, expected='a module that Python finds', fix=how_to_import(str(error)))


def how_to_import(message: str) -> str:
    """What to do about an import that failed with this message."""
    absent = re.search(r"No module named '([^'.]+)", message)
    if absent is None:
        return 'fix the import: the module is there, but it fails, or does not have what is imported from it'
    return f'pip install the package that has {absent[1]!r}; for a module of your own set PYTHONPATH to its folder'


# -- names -------------------------------------------------------------------------------------------------------------


def _types(value: Any) -> Iterator[str]:
    """Every text at a ``type`` key."""
    if isinstance(value, Mapping):
        for key, item in dict.items(value) if isinstance(value, dict) else value.items():
            if key == 'type' and isinstance(item, str):
                yield item
            yield from _types(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _types(item)


def _named(kind: str, load: bool = False) -> Iterator[Any]:
    """What is registered under a name, in any registry; ``load``: those of mmft, if they are not imported yet."""
    for registry in registries():
        if load:
            registry.import_from_location()
        if kind in registry.module_dict:
            yield registry.module_dict[kind]
    if (own := USER_CODE.get(kind)) is not None:
        yield own


def _path(part: Any) -> str:
    return f'{part.__module__}.{part.__qualname__}' if hasattr(part, '__qualname__') else repr(part)


def _is_name(name: Any) -> bool:
    return isinstance(name, str) and all(piece.isidentifier() for piece in name.split('.'))


def _is_module_name(name: Any) -> bool:
    return _is_name(name) and name.partition('.')[0] not in _LIBRARIES


def _is_user_code(module: str) -> bool:
    return module.partition('.')[0] not in _LIBRARIES and module != '__main__'
