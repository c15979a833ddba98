"""Which model directories each backend serves: one table for the choice of a backend, the documents and the tests.

A cell is ``''`` where the backend answers as the model does in training, and otherwise says why not; what a language
model changes stands in ``mmft/models/language``. ``tests/serve`` runs every row against LMDeploy 0.18 and transformers
5.23, and writes the table into ``docs/serving.md``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

from mmft.errors import CheckpointError

if TYPE_CHECKING:
    from mmft.models.language.family import Family

__all__ = ['BACKENDS', 'EXPORT_HF', 'Support', 'support_of', 'support_table']

BACKENDS: dict[str, str] = {
    'turbomind': 'LMDeploy, TurboMind',
    'pytorch': 'LMDeploy, PyTorch engine',
    'transformers': 'transformers serve',
}
"""The backends, the one to prefer first."""

EXPORT_HF = 'export it with --layout hf'


@dataclass(frozen=True)
class Support:
    """One kind of model directory and who serves it.

    Args:
        layout: of ``mmft pth_to_hf``.
        architecture: ``architectures[0]`` of ``config.json``.
        language_model: ``architectures[0]`` of the language model in it; '': any.
        llms: mmft's names of the language models that are exported so.
        towers: ``model_type`` of ``vision_config``; none: any.
        turbomind, pytorch, transformers: '', or why this backend does not serve it.
        remote_code: LMDeploy runs Python files of the directory (``--trust-remote-code``).
    """

    layout: str
    architecture: str
    language_model: str
    llms: tuple[str, ...]
    towers: tuple[str, ...] = ()
    turbomind: str = ''
    pytorch: str = ''
    transformers: str = ''
    remote_code: bool = False

    @property
    def backends(self) -> list[str]:
        """Who serves it, the one to prefer first."""
        return [name for name in BACKENDS if not getattr(self, name)]


_HF = 'InternVLForConditionalGeneration'
_CHAT = 'InternVLChatModel'
_LLAVA = 'LlavaForConditionalGeneration'
_NEXT = 'LlavaNextForConditionalGeneration'

_NO_LLAVA = 'TurboMind has no LLaVA'
_NO_TOWER = "LMDeploy's LLaVA has no other tower than CLIP"
_NEXT_FAILS = "LMDeploy 0.18's LLaVA-NeXT fails under transformers 5"
_NO_CLASS = 'transformers has no such class'
_OWN_PROGRAMS = 'mmft and its own programs read'


def _nobody(layout: str, architecture: str, reader: str) -> Support:
    why = f'only {reader} it; {EXPORT_HF}'
    return Support(layout, architecture, '', (), turbomind=why, pytorch=why, transformers=why)


def _by_class(held: Mapping[str, Family]) -> Iterator[tuple[str, tuple[str, ...], Family]]:
    """(class of transformers, the families that are exported as it, the one whose own it is) of an HF-native layout."""
    for architecture in dict.fromkeys(family.hf_architecture for family in held.values()):
        kinds = tuple(kind for kind, family in held.items() if family.hf_architecture == architecture)
        own = (held[kind] for kind in kinds if held[kind].architecture == architecture)
        yield architecture, kinds, next(own, held[kinds[0]])


def _rows() -> Iterator[Support]:
    from mmft.models.language.family import held_by  # late: it is torch that this imports

    for architecture, kinds, family in _by_class(held_by('internvl_hf')):
        yield Support('hf', _HF, architecture, kinds, turbomind=family.turbomind, pytorch=family.pytorch)
    for kind, family in held_by('internvl_official').items():
        yield Support('official', _CHAT, family.architecture, (kind,), turbomind=family.turbomind,
                      pytorch=family.pytorch, transformers=_NO_CLASS, remote_code=True)  # fmt: skip
    clip, others = ('clip_vision_model',), ('siglip_vision_model', 'dinov2')
    for architecture, kinds, family in _by_class(held_by('llava_hf')):
        yield Support('hf', _LLAVA, architecture, kinds, clip, turbomind=_NO_LLAVA, pytorch=family.pytorch)
    yield Support('hf', _LLAVA, '', (), others, turbomind=_NO_LLAVA, pytorch=_NO_TOWER)
    yield Support('hf', _NEXT, '', (), turbomind=_NO_LLAVA, pytorch=_NEXT_FAILS)
    for kind in held_by('llava_official'):
        yield _nobody('official', f'Llava{kind}ForCausalLM', _OWN_PROGRAMS)
    yield _nobody('official', 'TinyLlavaForConditionalGeneration', _OWN_PROGRAMS)
    yield _nobody('native', 'MMFTForConditionalGeneration', 'mmft reads')


@cache
def support_table() -> tuple[Support, ...]:
    """The rows; the first that fits a directory holds."""
    return tuple(_rows())


def support_of(config: Mapping[str, Any]) -> Support:
    """Who serves a directory with this ``config.json``: its row of the table, its own settings looked at.

    Raises:
        CheckpointError: no row fits: a foreign architecture, or one without its language model's name.

    >>> llm = {'architectures': ['Phi3ForCausalLM']}
    >>> support_of({'architectures': ['InternVLForConditionalGeneration'], 'text_config': llm}).backends
    ['pytorch', 'transformers']
    """
    architecture = _first(config)
    rows = [row for row in support_table() if row.architecture == architecture]
    if not rows:
        raise CheckpointError(
            f'config.json has architectures = {config.get("architectures") or []}',
            expected=f'one of {sorted({row.architecture for row in support_table()})}',
            fix='serve a directory that tools/pth_to_hf.py wrote',
        )
    tower = (config.get('vision_config') or {}).get('model_type', '')
    section = 'llm_config' if architecture == _CHAT else 'text_config'
    language_model = _first(config.get(section) or {})
    for row in rows:
        if row.language_model in ('', language_model) and (not row.towers or tower in row.towers):
            return _settled(row, config)
    raise CheckpointError(
        f'{architecture} with {section}.architectures = {[language_model] if language_model else None}'
        + (f' and the tower {tower}' if any(row.towers for row in rows) else ''),
        expected=f'one of {sorted({row.language_model for row in rows if row.language_model})}',
        fix=f'write the name into {section} of config.json, or export it again',
    )


def _settled(row: Support, config: Mapping[str, Any]) -> Support:
    """The row with what the directory's own settings change."""
    if row.architecture == _LLAVA and not row.pytorch:
        text = config['text_config']
        heads, width = text.get('num_attention_heads'), text.get('head_dim')
        if heads and width and width * heads != text.get('hidden_size'):
            why = f"LMDeploy's LLaVA takes heads of hidden_size / num_attention_heads, the model has {width}"
            return replace(row, pytorch=why)
    if row.architecture != _CHAT:
        return row
    if config.get('select_layer', -1) != -1:
        why = f"LMDeploy takes the last layer's features, the model those of layer {config['select_layer']}"
        return replace(row, turbomind=why, pytorch=why)
    if config.get('pad2square'):
        why = 'LMDeploy stretches pictures that the model knows padded to squares'
        return replace(row, turbomind=why, pytorch=why)
    if config.get('ps_version') != 'v2' and not row.turbomind:
        return replace(row, turbomind=f'TurboMind has pixel shuffle v2 only, the model {config.get("ps_version")}')
    return row


def _first(config: Mapping[str, Any]) -> str:
    names = config.get('architectures')
    return names[0] if names else ''
