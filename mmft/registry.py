"""The registries: one flat table per kind of part, filled when a part's module is first asked for.

A config names a part (``type='InternViT'``); the registry finds the class, or answers with the nearest known names.
A name is looked up as it is and never imported: it may come from a stranger's file (``docs/security.md``). Parts are
added with a decorator::

    @PROJECTORS.register_module()
    class MyProjector(Projector): ...
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from mmengine import registry as mmengine_registry
from mmengine.config import Config, ConfigDict
from mmengine.registry import Registry as MMEngineRegistry
from mmengine.registry import build_from_cfg

from mmft.errors import ConfigError
from mmft.words import clipped, near_names, suggested

__all__ = [
    'COLLATORS',
    'DATASETS',
    'ENCODERS',
    'HOOKS',
    'IMAGE_PROCESSORS',
    'LANGUAGE_MODELS',
    'LOG_PROCESSORS',
    'LOOPS',
    'MERGES',
    'METRICS',
    'MODELS',
    'OPTIMIZERS',
    'OPTIM_WRAPPERS',
    'PARAM_SCHEDULERS',
    'PROJECTORS',
    'SAMPLERS',
    'STRATEGIES',
    'TEMPLATES',
    'USER_CODE',
    'VISBACKENDS',
    'VISION_TOWERS',
    'VISUALIZERS',
    'Registry',
    'registered_name',
    'registries',
]


class Registry(MMEngineRegistry):
    """mmengine's registry, whose answer to an unknown name lists the nearest known ones.

    mmengine's own ``get`` imports what a dotted name says and the package that a scope names (``mmdet.X``,
    ``_scope_``): a ``config.json`` with ``"type": "subprocess.Popen"`` would start a program. This one knows names.
    """

    def get(self, key: Any) -> Any:
        """What is registered under exactly this name, here or in a parent; None where nothing is."""
        registry: MMEngineRegistry | None = self
        while registry is not None and isinstance(key, str):
            registry.import_from_location()
            if key in registry.module_dict:
                return registry.module_dict[key]
            registry = registry.parent
        return USER_CODE.get(key) if isinstance(key, str) else None

    def build(self, cfg: Any, *args: Any, **kwargs: Any) -> Any:
        """Build from a dict with ``type``; an object that is no dict is taken as built already, None as no part.

        Raises:
            ConfigError: ``type`` is missing or names nothing that is registered, its arguments are not those of the
                class, or text, a number or a list stands where a part should be.
        """
        if isinstance(cfg, (str, bytes, int, float, list, tuple)):
            what = f'{clipped(repr(cfg))} where a {self.name} should be'
            raise ConfigError(what, expected=f'a dict whose `type` is one of {self.names()}')
        if not isinstance(cfg, (dict, Config, ConfigDict)):
            return cfg
        kind = cfg.get('type')
        if kind is None:
            raise ConfigError(
                f'the {self.name} config has no `type`: {clipped(dict(cfg))}',
                expected=f'one of {self.names()}',
                fix="add type='...'",
            )
        part = self.get(kind)
        if part is None:
            raise self.unknown(kind)
        if '_scope_' in cfg:
            what = f'the {self.name} config has `_scope_` = {clipped(repr(cfg["_scope_"]))}'
            raise ConfigError(what, expected='names of the registries of mmft alone', fix='remove `_scope_`')
        if inspect.isabstract(part):
            raise self._abstract(kind, part)
        if self.build_func is build_from_cfg:  # schedulers have a builder of their own, which takes more names
            self._check_arguments(kind, part, {**(kwargs.get('default_args') or {}), **cfg})
        return super().build({**cfg, 'type': part}, *args, **kwargs)

    def _abstract(self, name: Any, part: type) -> ConfigError:
        missing = sorted(part.__abstractmethods__)
        base = next(base for base in part.__mro__[::-1] if missing[0] in vars(base))
        return ConfigError(
            f'{self.name} {name}: {part.__name__} has no {", ".join(missing)}',
            expected=f'all that {base.__name__} asks of it ({base.__module__.replace(".", "/")}.py)',
            fix='write them; docs/configs.md lists what parts of your own need',
        )

    def _check_arguments(self, name: str, part: Any, arguments: Mapping[str, Any]) -> None:
        try:
            signature = inspect.signature(part)
        except (TypeError, ValueError):  # built-in callables have none
            return
        given = {key: value for key, value in arguments.items() if key != 'type'}
        try:
            signature.bind(**given)
        except TypeError as error:
            takes = [key for key, parameter in signature.parameters.items() if parameter.kind.name != 'VAR_KEYWORD']
            near = [name for key in given if key not in takes for name in near_names(key, takes)]
            raise ConfigError(
                f'{self.name} {name}: {error}',
                expected=f'some of {takes}',
                fix=suggested(near, 'correct the config'),
            ) from None

    def names(self) -> list[str]:
        """Every registered name, mmengine's own included, sorted (imports the modules that register them)."""
        found: set[str] = set()
        registry: MMEngineRegistry | None = self
        while registry is not None:
            registry.import_from_location()
            found |= set(registry.module_dict)
            registry = registry.parent
        return sorted(found)

    def unknown(self, name: Any) -> ConfigError:
        """The error for a name that is not registered here."""
        known = self.names()
        fix = suggested(near_names(name, known, 3, 0.4), f'see mmft/registry.py for {self.name}')
        if isinstance(name, str) and '.' in name:
            fix += '; a class of your own is found after --allow-code MODULE (docs/security.md)'
        return ConfigError(f'no {self.name} is named {clipped(repr(name))}', expected=f'one of {known}', fix=fix)


class UserCode:
    """Code that users wrote and named, for what no decorator registers; ``mmft/user_code.py`` fills it.

    Attributes:
        named: by module and name (``mypackage.towers.MyTower``), classes and functions that a config names.
        modules: by name, those that were imported since a config or a command line names them. A file may name their
            classes; not what they import from elsewhere, nor their functions.
    """

    def __init__(self) -> None:
        self.named: dict[str, Any] = {}
        self.modules: dict[str, ModuleType] = {}

    def get(self, path: str) -> Any:
        """What this path names; None where it is not one of these."""
        module, _, name = path.rpartition('.')
        part = vars(self.modules[module]).get(name) if module in self.modules else None
        return self.named.get(path, part if isinstance(part, type) and part.__module__ == module else None)


USER_CODE = UserCode()


def _registry(name: str, location: str, parent: MMEngineRegistry | None = None) -> Registry:
    return Registry(name, parent=parent, scope='mmft', locations=[location])


MODELS = _registry('model', 'mmft.models')
VISION_TOWERS = _registry('vision tower', 'mmft.models.vision')
PROJECTORS = _registry('projector', 'mmft.models.projectors')
MERGES = _registry('merge', 'mmft.models.merge')
LANGUAGE_MODELS = _registry('language model', 'mmft.models.language')
IMAGE_PROCESSORS = _registry('image processor', 'mmft.data.pictures.tilers')
TEMPLATES = _registry('chat template', 'mmft.data.text.templates')
ENCODERS = _registry('encoder', 'mmft.data.encoder')
DATASETS = _registry('dataset', 'mmft.data.records.dataset')
SAMPLERS = _registry('sampler', 'mmft.data.batches.sampler')
COLLATORS = _registry('collator', 'mmft.data.batches.collate')
STRATEGIES = _registry('strategy', 'mmft.engine.strategies')
METRICS = _registry('metric', 'mmft.evaluation')

# Children of mmengine's own, so that the Runner finds mmengine's parts and ours by name.
HOOKS = _registry('hook', 'mmft.engine', mmengine_registry.HOOKS)
LOOPS = _registry('loop', 'mmft.engine', mmengine_registry.LOOPS)
OPTIM_WRAPPERS = _registry('optim wrapper', 'mmft.engine', mmengine_registry.OPTIM_WRAPPERS)
OPTIMIZERS = _registry('optimizer', 'mmft.engine', mmengine_registry.OPTIMIZERS)
PARAM_SCHEDULERS = _registry('parameter scheduler', 'mmft.engine', mmengine_registry.PARAM_SCHEDULERS)
VISUALIZERS = _registry('visualizer', 'mmft.engine', mmengine_registry.VISUALIZERS)
VISBACKENDS = _registry('visualizer backend', 'mmft.engine', mmengine_registry.VISBACKENDS)
LOG_PROCESSORS = _registry('log processor', 'mmft.engine', mmengine_registry.LOG_PROCESSORS)


def registries() -> list[MMEngineRegistry]:
    """Ours, then those of mmengine that lie above them."""
    own = [value for value in globals().values() if isinstance(value, Registry)]
    return own + [registry.parent for registry in own if registry.parent is not None]


def registered_name(part: Any) -> str | None:
    """The name of a class or function in our registries, as far as they are filled; None where it has none that means
    it in all of them."""
    tables = [
        {**(registry.parent.module_dict if registry.parent is not None else {}), **registry.module_dict}
        for registry in registries()
        if isinstance(registry, Registry)
    ]
    names = sorted({name for table in tables for name, found in table.items() if found is part})
    return next((name for name in names if all(table.get(name, part) is part for table in tables)), None)
