"""``Family``: what is known of a family of language models, as data. Layouts, exports, servers and tests read it here.

A family is one file beside this one: a ``CausalLM`` whose ``family`` says it all, and code only for what is not data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

from mmft.registry import LANGUAGE_MODELS

__all__ = ['AS_COMPUTED', 'FIELDS', 'INTERNVL', 'LINEAR_LAYERS', 'LLAVA', 'Family', 'Tensors', 'families', 'held_by']

FIELDS = (
    'vocab_size', 'hidden_size', 'intermediate_size', 'num_hidden_layers', 'num_attention_heads',
    'num_key_value_heads', 'hidden_act', 'max_position_embeddings', 'initializer_range', 'rms_norm_eps', 'use_cache',
    'attention_dropout', 'attention_bias', 'mlp_bias', 'head_dim', 'original_max_position_embeddings',
    'sliding_window', 'use_sliding_window', 'max_window_layers', 'resid_pdrop', 'embd_pdrop',
)  # fmt: skip
"""What the families' own ``config.json`` hold, beside rope and token ids, by transformers' names."""

LINEAR_LAYERS = ('q_proj', 'k_proj', 'v_proj', 'o_proj', 'gate_proj', 'up_proj', 'down_proj')
"""Llama's, which most families have."""

LLAVA, INTERNVL = ('llava_hf', 'tinyllava'), ('internvl_hf', 'internvl_official')
"""Layouts of ``mmft/layouts``."""


class Tensors(NamedTuple):
    """What a family's own directories call some of its tensors.

    Attributes:
        theirs: name pattern there, as in ``mmft/layouts/rules.py``.
        ours: in transformers' class; several where ``theirs`` is packed.
        split, join: (packed, heads, key-value heads) -> the tensors of ``ours``, and (*those, heads, key-value heads)
            -> (packed,).
    """

    theirs: str
    ours: str | tuple[str, ...]
    split: Callable[..., Sequence[Tensor]] | None = None
    join: Callable[..., Sequence[Tensor]] | None = None


AS_COMPUTED = (Tensors('{x}', '{x}'),)
"""Tensors of a family whose own directories name them as transformers' class does."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """What is known of a family of language models.

    Attributes:
        architecture, model_type: ``architectures[0]`` and ``model_type`` of its own directories.
        computed_by: the same two of the class of transformers that computes it, where they differ.
        also: further names by which configs call it, in lower case.
        marks: ends of tensor names that it has and that tell it from the others, block numbers left out. Of families
            whose marks are all there, the one with most is meant. Empty where names do not tell.
        names: its own config's names that differ -> transformers'.
        fields: what its own ``config.json`` holds, by transformers' names.
        silent: settings beyond those of every family that change the numbers and show in no tensor's shape.
        rope: transformers' names of rope scalings -> those of its own ``config.json``, where they differ.
        rope_key: the key that names the kind of a ``rope_scaling`` there.
        tensors: how its own directories name its tensors.
        head: their name of the output head.
        linear_layers: what LoRA targets by default.
        template: chat template of a LLaVA on it whose directory names none.
        dialects: a token -> the templates of a LLaVA and of a LLaVA-NeXT whose tokenizer has that token.
        internvl_template: chat template of an InternVL on it whose directory names none.
        layouts: which hold it, by their module in ``mmft/layouts``; ``native`` holds every model.
        turbomind, pytorch: '', or why this engine of LMDeploy does not serve it.
    """

    architecture: str
    model_type: str
    computed_by: tuple[str, str] = ('', '')
    also: tuple[str, ...] = ()
    marks: tuple[str, ...] = ()
    names: Mapping[str, str] = field(default_factory=dict)
    fields: tuple[str, ...] = FIELDS
    silent: tuple[str, ...] = ()
    rope: Mapping[str, str] = field(default_factory=dict)
    rope_key: str = 'type'
    tensors: tuple[Tensors, ...] = AS_COMPUTED
    head: str = 'lm_head'
    linear_layers: tuple[str, ...] = LINEAR_LAYERS
    template: str
    dialects: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    internvl_template: str = ''
    layouts: tuple[str, ...] = LLAVA
    turbomind: str = ''
    pytorch: str = ''

    @property
    def hf_architecture(self) -> str:
        """The class of transformers that computes it."""
        return self.computed_by[0] or self.architecture

    @property
    def hf_model_type(self) -> str:
        """``model_type`` of that class."""
        return self.computed_by[1] or self.model_type


def families() -> dict[str, Family]:
    """Every registered family, by its name in configs."""
    LANGUAGE_MODELS.import_from_location()
    # What a subclass inherits describes another model.
    found = {name: vars(part).get('family') for name, part in LANGUAGE_MODELS.module_dict.items()}
    return {name: family for name, family in found.items() if isinstance(family, Family)}


def held_by(layout: str) -> dict[str, Family]:
    """The families that a layout holds.

    Args:
        layout: its module in ``mmft/layouts``.

    >>> sorted(held_by('llava_official'))
    ['Llama', 'Mistral']
    """
    return {name: family for name, family in families().items() if layout in family.layouts}
