"""Values of a config without mmengine's classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ['plain_dict', 'plain_value']


def plain_dict(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """A config's dict as ordinary dicts, so that nothing of mmengine's goes into parts and checkpoints."""
    return cfg.to_dict() if hasattr(cfg, 'to_dict') else dict(cfg)


def plain_value(value: Any) -> Any:
    """A config's value, a dict of it as an ordinary one."""
    return plain_dict(value) if isinstance(value, Mapping) else value
