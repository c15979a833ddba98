"""The registries: one flat table per kind of part, filled when a part's module is first asked for.

A config names a part (``type='InternViT'``); the registry finds the class, or answers with the nearest known names.
Parts are added with a decorator::

    @PROJECTORS.register_module()
    class MyProjector(Projector): ...
"""

from __future__ import annotations

import difflib
from typing import Any

from mmengine import registry as mmengine_registry
from mmengine.config import Config, ConfigDict
from mmengine.registry import Registry as MMEngineRegistry

from mmft.errors import ConfigError

__all__ = [
    'COLLATORS',
    'DATASETS',
    'ENCODERS',
    'HOOKS',
    'IMAGE_PROCESSORS',
    'LANGUAGE_MODELS',
    'LOG_PROCESSORS',
    'LOOPS',
    'METRICS',
    'MODELS',
    'OPTIMIZERS',
    'OPTIM_WRAPPERS',
    'PARAM_SCHEDULERS',
    'PROJECTORS',
    'SAMPLERS',
    'TEMPLATES',
    'VISBACKENDS',
    'VISION_TOWERS',
    'VISUALIZERS',
    'Registry',
]


class Registry(MMEngineRegistry):
    """mmengine's registry, whose answer to an unknown name lists the nearest known ones."""

    def build(self, cfg: Any, *args: Any, **kwargs: Any) -> Any:
        """Build from a dict with ``type``; anything that is not a dict is taken as built already.

        Raises:
            ConfigError: ``type`` is missing or names nothing that is registered.
        """
        if not isinstance(cfg, (dict, Config, ConfigDict)):
            return cfg
        kind = cfg.get('type')
        if kind is None:
            raise ConfigError(
                f'a {self.name} config without a `type`: {dict(cfg)}',
                expected=f'one of {self.names()}',
                fix="add type='...'",
            )
        if isinstance(kind, str) and self.get(kind) is None:
            raise self.unknown(kind)
        return super().build(cfg, *args, **kwargs)

    def names(self) -> list[str]:
        """Every registered name, sorted (imports the modules that register them)."""
        self.import_from_location()
        return sorted(self.module_dict)

    def unknown(self, name: str) -> ConfigError:
        """The error for a name that is not registered here."""
        known = self.names()
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
        return ConfigError(
            f'no {self.name} is named {name!r}',
            expected=f'one of {known}',
            fix=f'did you mean {" or ".join(map(repr, near))}?' if near else f'see mmft/registry.py for {self.name}',
        )


def _registry(name: str, location: str, parent: MMEngineRegistry | None = None) -> Registry:
    return Registry(name, parent=parent, scope='mmft', locations=[location])


MODELS = _registry('model', 'mmft.models')
VISION_TOWERS = _registry('vision tower', 'mmft.models.vision')
PROJECTORS = _registry('projector', 'mmft.models.projectors')
LANGUAGE_MODELS = _registry('language model', 'mmft.models.language')
IMAGE_PROCESSORS = _registry('image processor', 'mmft.data.images')
TEMPLATES = _registry('chat template', 'mmft.data.templates')
ENCODERS = _registry('encoder', 'mmft.data.encoder')
DATASETS = _registry('dataset', 'mmft.data.dataset')
SAMPLERS = _registry('sampler', 'mmft.data.sampler')
COLLATORS = _registry('collator', 'mmft.data.collate')
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
