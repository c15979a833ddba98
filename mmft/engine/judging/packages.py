"""Optional packages that a config needs and that are not installed: reported first, with the command to type."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.config import Config

from mmft.engine.strategies import strategy_of

__all__ = ['missing_packages']

_BACKENDS = {
    'WandbVisBackend': ('wandb', "'mmft[track]'"),
    'TensorboardVisBackend': ('tensorboard', 'tensorboard'),
    'MLflowVisBackend': ('mlflow', 'mlflow'),
    'ClearMLVisBackend': ('clearml', 'clearml'),
    'NeptuneVisBackend': ('neptune', 'neptune'),
    'DVCLiveVisBackend': ('dvclive', 'dvclive'),
    'AimVisBackend': ('aim', 'aim'),
}
"""mmengine's backends -> the module that each imports when a run starts, and what to give pip."""


def missing_packages(cfg: Config) -> Iterator[str]:
    """One entry for each package, by the key of the config that needs it."""
    for key, module, package in _needed(cfg):
        if importlib.util.find_spec(module) is None:
            yield f'{key} needs {module}, which is not installed\n  to do:    pip install {package}'


def _needed(cfg: Config) -> Iterator[tuple[str, str, str]]:
    yield from strategy_of(cfg).packages()
    tune = cfg.get('tune')
    for part, spec in tune.items() if isinstance(tune, Mapping) else ():
        if 'qlora' in (spec, spec.get('type') if isinstance(spec, Mapping) else None):
            yield f"tune.{part} = 'qlora'", 'bitsandbytes', "'mmft[qlora]'"
    visualizer: Any = cfg.get('visualizer')
    backends = visualizer.get('vis_backends') if isinstance(visualizer, Mapping) else None
    for i, backend in enumerate(backends if isinstance(backends, (list, tuple)) else ()):
        kind = backend.get('type') if isinstance(backend, Mapping) else None
        if isinstance(kind, str) and kind in _BACKENDS:
            yield f'visualizer.vis_backends.{i} ({kind})', *_BACKENDS[kind]
