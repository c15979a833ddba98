"""The hooks of every run, and how a config changes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmengine.hooks import Hook

from mmft.registry import HOOKS

__all__ = ['DEFAULT_HOOKS', 'build_hook', 'merged_hooks']

DEFAULT_HOOKS: dict[str, dict[str, Any]] = {
    'runtime_info': {'type': 'RuntimeInfoHook'},
    'label_mask': {'type': 'LabelMaskHook'},
    'moved_parts': {'type': 'MovedPartsHook'},
    'text_only': {'type': 'TextOnlyHook'},
    'progress': {'type': 'ProgressHook'},
    'answers': {'type': 'SampleAnswersHook'},
    'param_scheduler': {'type': 'ParamSchedulerHook'},
    'checkpoint': {'type': 'CheckpointHook'},
}
"""Hooks of every run; a config changes one by name in ``default_hooks`` (None takes it out)."""


def merged_hooks(hooks: Mapping[str, Any] | None = None) -> dict[str, dict[str, Any]]:
    """Name -> settings of the hooks of a run.

    Args:
        hooks: ``default_hooks`` of a config; each dict is merged into the default of the same name.

    >>> merged_hooks({'answers': None, 'progress': {'interval': 1}})['progress']
    {'type': 'ProgressHook', 'interval': 1}
    """
    merged: dict[str, Any] = {}
    for name in {**DEFAULT_HOOKS, **(hooks or {})}:
        given = (hooks or {}).get(name, {})
        if given is not None:
            merged[name] = {**DEFAULT_HOOKS.get(name, {}), **given}
    return merged


def build_hook(hook: Hook | Mapping[str, Any]) -> tuple[Hook, Any]:
    """A hook and the priority that its dict names, or None: built by our registry, whose errors name the nearest."""
    if not isinstance(hook, Mapping):
        return hook, None
    settings = dict(hook)
    priority = settings.pop('priority', None)
    return HOOKS.build(settings), priority
