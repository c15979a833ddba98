"""Names of tensors: a two-way table between the names on disk and mmft's own names.

A table is a list of rules. A rule renames (``mlp1.0.{x}`` <-> ``projector.mlp.0.{x}``) and may rearrange: one packed
tensor there, several here. ``{x}`` matches anything, ``{n}`` a number, ``{k}`` one name component. Loading reads the
table one way, exporting the other, so the two cannot drift apart.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

from torch import Tensor

from mmft.errors import CheckpointError
from mmft.words import count_of

__all__ = ['NameTable', 'Rule', 'Step', 'pattern']

_FIELDS = {'x': r'.+', 'n': r'\d+', 'k': r'[^.]+'}


@dataclass(frozen=True)
class Rule:
    """One line of a table.

    Attributes:
        theirs, ours: name patterns; the same fields must stand on both sides.
        split: their tensors -> our tensors, where more happens than renaming.
        join: our tensors -> their tensors, its exact inverse.
    """

    theirs: str | tuple[str, ...]
    ours: str | tuple[str, ...]
    split: Callable[..., Sequence[Tensor]] | None = None
    join: Callable[..., Sequence[Tensor]] | None = None

    def side(self, ours: bool) -> tuple[str, ...]:
        names = self.ours if ours else self.theirs
        return (names,) if isinstance(names, str) else names


@dataclass(frozen=True)
class Step:
    """One conversion: read ``inputs``, call ``convert``, get ``outputs``. A step needs no other tensor."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    convert: Callable[..., Sequence[Tensor]] | None = None

    def __call__(self, get: Callable[[str], Tensor]) -> dict[str, Tensor]:
        tensors = [get(name) for name in self.inputs]
        return dict(zip(self.outputs, self.convert(*tensors) if self.convert else tensors, strict=True))


@cache
def pattern(name: str) -> re.Pattern[str]:
    """A name pattern of a table as a regular expression."""
    body = re.sub(r'\\\{(\w)\\\}', lambda m: f'(?P<{m[1]}>{_FIELDS[m[1]]})', re.escape(name))
    return re.compile(body)


class NameTable(ABC):
    """Names of tensors in files, and what they are called here."""

    architecture: str
    """What has these names, for messages; of a directory ``architectures[0]`` of its ``config.json``."""

    ignored: tuple[str, ...] = ('{x}.rotary_emb.inv_freq', '{x}.position_ids')
    """Their names, as patterns, of what files may hold and no model needs: buffers that older versions saved."""

    zeros: tuple[str, ...] = ()
    """Our names, as patterns, of tensors that files may leave out because they are zero."""

    @property
    @abstractmethod
    def rules(self) -> list[Rule]:
        """The table; the first rule that matches wins."""

    @property
    @abstractmethod
    def model_config(self) -> dict[str, Any]:
        """The ``model`` dict of mmft for what these names are of."""

    @cached_property
    def _compiled(self) -> dict[bool, list[tuple[Rule, list[re.Pattern[str]]]]]:
        return {
            ours: [(rule, [pattern(name) for name in rule.side(ours)]) for rule in self.rules] for ours in (False, True)
        }

    def to_ours(self, keys: Iterable[str]) -> list[Step]:
        """Steps from a directory's names to mmft's; what is ``ignored`` has none."""
        skipped = [pattern(name) for name in self.ignored]
        return self._steps((key for key in keys if not any(p.fullmatch(key) for p in skipped)), ours=False)

    def may_be_random(self, name: str) -> bool:
        """Whether a tensor that no file holds may start with random values. A whole model's directory holds all."""
        return False

    def may_be_absent(self, name: str) -> bool:
        """Whether a directory may leave out the tensor that is ``name`` here, because it is zero."""
        return any(pattern(zero).fullmatch(name) for zero in self.zeros)

    def to_theirs(self, keys: Iterable[str]) -> list[Step]:
        """Steps from mmft's names to a directory's."""
        return self._steps(keys, ours=True)

    def _steps(self, keys: Iterable[str], ours: bool) -> list[Step]:
        """Steps that read names of one side and give names of the other, in the order the keys come in."""
        present = dict.fromkeys(keys)
        steps: dict[tuple[str, ...], Step] = {}
        unknown: list[str] = []
        for key in present:
            found = self._match(key, ours)
            if found is None:
                unknown.append(key)
                continue
            rule, fields = found
            inputs = tuple(_fill(name, fields) for name in rule.side(ours))
            outputs = tuple(_fill(name, fields) for name in rule.side(not ours))
            steps.setdefault(inputs, Step(inputs, outputs, rule.join if ours else rule.split))
        if unknown:
            raise CheckpointError(
                f'{count_of(len(unknown), "tensor")} without a place in the model, such as {min(unknown)}',
                expected=f'the tensors of {self.architecture}',
                fix='the directory may belong to another architecture, or hold an unmerged adapter',
            )
        missing = sorted({name for step in steps.values() for name in step.inputs} - set(present))
        if missing:
            raise CheckpointError(
                f'{count_of(len(missing), "tensor")} missing, such as {missing[:4]}',
                fix='download all weight files of the model',
            )
        return list(steps.values())

    def _match(self, key: str, ours: bool) -> tuple[Rule, dict[str, str]] | None:
        for rule, patterns in self._compiled[ours]:
            for compiled in patterns:
                if match := compiled.fullmatch(key):
                    return rule, match.groupdict()
        return None


def _fill(name: str, fields: dict[str, str]) -> str:
    for field, value in fields.items():
        name = name.replace('{' + field + '}', value)
    return name
