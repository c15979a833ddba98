"""Which model directories each backend serves: one table for the choice of a backend, the documents and the tests.

What a directory format says of it stands in ``mmft/layouts``, what a language model changes in
``mmft/models/language``. ``tests/serve`` runs every row against LMDeploy 0.18 and transformers 5.23, and writes the
table into ``docs/serving.md``.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from mmft.backends import Support
from mmft.errors import CheckpointError

if TYPE_CHECKING:
    from mmft.layouts import Layout

__all__ = ['support_of', 'support_table']


@cache
def support_table() -> tuple[Support, ...]:
    """The rows; the first that fits a directory holds."""
    return tuple(row for row, _ in _rows())


@cache
def _rows() -> list[tuple[Support, type[Layout]]]:
    from mmft.layouts import LAYOUTS  # late: it is torch that this imports

    return [(row, layout) for layout in LAYOUTS.values() for row in layout.support()]


def support_of(config: Mapping[str, Any]) -> Support:
    """Who serves a directory with this ``config.json``: its row of the table, its own settings looked at.

    Raises:
        CheckpointError: no row fits: a foreign architecture, or one without its language model's name.

    >>> llm = {'architectures': ['Phi3ForCausalLM']}
    >>> support_of({'architectures': ['InternVLForConditionalGeneration'], 'text_config': llm}).backends
    ['pytorch', 'transformers']
    """
    architecture = _first(config)
    rows = {row: layout for row, layout in _rows() if row.architecture == architecture}
    if not rows:
        raise CheckpointError(
            f'config.json has architectures = {config.get("architectures") or []}',
            expected=f'one of {sorted({row.architecture for row in support_table()})}',
            fix='serve a directory that tools/pth_to_hf.py wrote',
        )
    tower = (config.get('vision_config') or {}).get('model_type', '')
    section = next(iter(rows.values())).llm_section
    language_model = _first(config.get(section) or {})
    for row in rows:
        if row.language_model in ('', language_model) and (not row.towers or tower in row.towers):
            return rows[row].limited_support(row, config)
    raise CheckpointError(
        f'{architecture} with {section}.architectures = {[language_model] if language_model else None}'
        + (f' and the tower {tower}' if any(row.towers for row in rows) else ''),
        expected=f'one of {sorted({row.language_model for row in rows if row.language_model})}',
        fix=f'write the name into {section} of config.json, or export it again',
    )


def _first(config: Mapping[str, Any]) -> str:
    names = config.get('architectures')
    return names[0] if names else ''
