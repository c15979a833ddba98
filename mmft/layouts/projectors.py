"""Projectors on disk: what LLaVA, TinyLLaVA, XTuner, InternVL, BLIP-2, LAVIS and MiniGPT-4 call their tensors.

Sources: ``multimodal_projector/builder.py`` of LLaVA and TinyLLaVABench, ``connector/*.py`` of TinyLLaVA Factory,
``projector/modeling_projector.py`` of XTuner, ``Qformer.py`` and ``blip2.py`` of LAVIS and MiniGPT-4,
``transformers/models/{blip_2,internvl,llava}``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from mmft.layouts.rules import Rule

__all__ = ['PROJECTOR_IGNORED', 'any_projector_rules', 'connector_rules', 'dense_name', 'dense_type',
           'llava_projector_rules', 'optional_names']  # fmt: skip

_OURS = {'MLP': 'projector.mlp.{x}', 'Linear': 'projector.linear.{x}'}
_HF = {
    'MLP': {'linear_1': 'mlp.0', 'linear_2': 'mlp.2'},
    'PixelShuffleMLP': {'layer_norm': 'mlp.0', 'linear_1': 'mlp.1', 'linear_2': 'mlp.3'},
}
"""transformers' ``multi_modal_projector``."""
_BLOCK = 'projector.qformer.encoder.layer.{n}.'
_BARE = {
    'Linear': {'weight': 'linear.weight', 'bias': 'linear.bias'},
    'MLP': {'{n}.{k}': 'mlp.{n}.{k}'},
    **{kind: {name: name for name in names} for kind, names in (
        ('Resampler', ('latents', 'linear.{k}', 'layers.{x}', 'norm.{k}')),
        ('BenchResampler', ('queries', 'resampler_blocks.{x}', 'post_norm.{k}', 'final_proj.{k}')),
    )},
}  # fmt: skip
"""Names in a file that holds the original's module and nothing around it, and the module's here."""


def llava_projector_rules(kind: str, theirs: str = 'model.mm_projector.') -> list[Rule]:
    """Names of LLaVA's projectors.

    Args:
        kind: mmft's type.
        theirs: what stands before them on disk.
    """
    if kind == 'MoEMLP':
        return [
            Rule(theirs + 'deepspeed_moe.gate.wg.weight', 'projector.router.weight'),
            Rule(theirs + 'deepspeed_moe.experts.deepspeed_experts.{n}.{x}', 'projector.experts.{n}.{x}'),
        ]
    if kind == 'Linear':  # the module itself: no name between prefix and tensor
        return [Rule(theirs + '{k}', 'projector.linear.{k}')]
    return [Rule(theirs + '{x}', _OURS.get(kind, 'projector.{x}'))]


def connector_rules(kind: str, theirs: str = 'connector._connector.') -> list[Rule]:
    """Names of TinyLLaVA Factory's connectors.

    Args:
        kind: mmft's type.
        theirs: what stands before them on disk.
    """
    if kind == 'QFormer':
        return [
            Rule(theirs + 'query_tokens', 'projector.query_tokens'),
            Rule(theirs + 'projector.{k}', 'projector.proj.{k}'),
            *_bert_rules(theirs + 'bert.'),
        ]
    if kind == 'MoFMLP':
        names = ('clip', 'dinov2')
        return [Rule(f'{theirs}{name}.{{x}}', f'projector.mlps.{i}.{{x}}') for i, name in enumerate(names)]
    return llava_projector_rules(kind, theirs) if kind != 'MoEMLP' else []


def _bert_rules(theirs: str) -> list[Rule]:
    """The blocks of a Q-Former that was initialised from a BERT."""
    block = theirs + 'encoder.layer.{n}.'
    return [
        Rule(block + 'attention.self.{x}', _BLOCK + 'attention.attention.{x}'),
        Rule(block + 'crossattention.self.{x}', _BLOCK + 'crossattention.attention.{x}'),
        Rule(block + '{x}', _BLOCK + '{x}'),
    ]


def _qformer_rules(theirs: str) -> list[Rule]:
    """BLIP-2's Q-Former, in the files of LAVIS and MiniGPT-4 and in those of transformers."""
    heads = ('language_projection', 'llama_proj', 't5_proj', 'opt_proj', 'llm_proj')
    return [
        Rule(theirs + 'query_tokens', 'projector.query_tokens'),
        *(Rule(f'{theirs}{head}.{{k}}', 'projector.proj.{k}') for head in heads),
        *(Rule(f'{theirs}{norm}.{{k}}', 'projector.ln_vision.{k}') for norm in ('ln_vision', _POST_NORM)),
        Rule(theirs + 'Qformer.bert.embeddings.LayerNorm.{k}', 'projector.qformer.layernorm.{k}'),
        *_bert_rules(theirs + 'Qformer.bert.'),
        Rule(theirs + 'bert.embeddings.LayerNorm.{k}', 'projector.qformer.layernorm.{k}'),
        *_bert_rules(theirs + 'bert.'),
        Rule(theirs + 'qformer.{x}', 'projector.qformer.{x}'),
        Rule(theirs + 'encoder.{x}', 'projector.qformer.encoder.{x}'),
        Rule(theirs + 'layernorm.{k}', 'projector.qformer.layernorm.{k}'),
    ]


_POST_NORM = 'vision_model.post_layernorm'

PROJECTOR_IGNORED = (
    # The text half of BLIP-2's Q-Former, its heads, and the models around it.
    '{x}embeddings.position_ids', '{x}.position_ids', 'Qformer.cls.{x}', 'cls.{x}',
    'Qformer.bert.embeddings.word_embeddings.{x}', 'Qformer.bert.embeddings.position_embeddings.{x}',
    'bert.embeddings.word_embeddings.{x}', 'bert.embeddings.position_embeddings.{x}',
    'Qformer.bert.encoder.layer.{n}.intermediate.{x}', 'Qformer.bert.encoder.layer.{n}.output.{x}',
    'bert.encoder.layer.{n}.intermediate.{x}', 'bert.encoder.layer.{n}.output.{x}',
    'qformer.encoder.layer.{n}.intermediate.{x}', 'qformer.encoder.layer.{n}.output.{x}',
    'encoder.layer.{n}.intermediate.{x}', 'encoder.layer.{n}.output.{x}', 'qformer.embeddings.{x}', 'embeddings.{x}',
    'vision_proj.{x}', 'text_proj.{x}', 'vision_projection.{x}', 'text_projection.{x}', 'itm_head.{x}', 'temp',
    'visual_encoder.{x}', 'vision_model.embeddings.{x}', 'vision_model.encoder.{x}', 'llama_model.{x}', 't5_model.{x}',
    'opt_model.{x}', 'language_model.{x}',
)  # fmt: skip
"""Names beside a projector, in files that hold more than it."""


def any_projector_rules(kind: str, theirs: str = '') -> list[Rule]:
    """Every foreign name of a projector of this kind.

    Args:
        kind: mmft's type.
        theirs: what stands before all of them.
    """
    ours = [Rule(theirs + 'projector.{x}', 'projector.{x}'), Rule(theirs + 'merge.{k}', 'merge.{k}')]
    there, here = ('0', 'linear.') if kind == 'Linear' else ('{n}', 'mlp.{n}.')
    xtuner = [Rule(f'{theirs}{at}model.{there}.{{k}}', f'projector.{here}{{k}}') for at in ('projector.', '')]
    newline = [Rule(f'{theirs}{at}image_newline', 'merge.image_newline') for at in ('', 'model.')]
    # A mixture of experts may start from a dense MLP.
    kinds = (kind, 'MLP') if kind == 'MoEMLP' else (kind,)
    places = [theirs + at for at in ('model.mm_projector.', 'mm_projector.')]
    llava = [rule for at in places for one in kinds for rule in llava_projector_rules(one, at)]
    places = [theirs + at for at in ('connector._connector.', '_connector.')]
    tiny = [rule for at in places for one in kinds for rule in connector_rules(one, at)]
    blip = _qformer_rules(theirs) if kind == 'QFormer' else []
    intern = [Rule(f'{theirs}{at}mlp1.{{x}}', 'projector.mlp.{x}') for at in ('', 'model.')]
    hf = [
        Rule(f'{theirs}{at}multi_modal_projector.{name}.{{k}}', f'projector.{ours}.{{k}}')
        for at in ('', 'model.')
        for name, ours in _HF['PixelShuffleMLP' if kind == 'PixelShuffleMLP' else 'MLP'].items()
    ]
    bare = [Rule(theirs + name, f'projector.{own}') for name, own in _BARE.get(kind, {}).items()]
    return [*xtuner, *ours, *newline, *llava, *tiny, *blip, *intern, *hf, *bare]


def optional_names(kind: str) -> tuple[str, ...]:
    """Our names, as patterns, of what files of a projector of this kind need not hold or may hold in another size.

    BLIP-2's Q-Former comes with the linear map to *its* language model, or with none; LLaVA-NeXT's newline is new to a
    projector of LLaVA-1.5.
    """
    if kind != 'QFormer':
        return ('merge.{x}',)
    own = ('projector.proj.{k}', 'projector.in_proj.{k}', 'projector.query_tokens', 'projector.ln_vision.{k}')
    return ('merge.{x}', *own)


def dense_type(keys: Iterable[str], prefix: str) -> str | None:
    """What LLaVA's configs call the projector of these tensors, where it is a linear map or an MLP.

    Args:
        keys: names on disk.
        prefix: what stands before the projector's.

    >>> dense_type(['model.mm_projector.0.weight', 'model.mm_projector.2.weight'], 'model.mm_projector.')
    'mlp2x_gelu'
    """
    layer = re.compile(rf'{re.escape(prefix)}(?:(\d+)\.)?weight')
    found = {match[1] for key in keys if (match := layer.fullmatch(key))}
    if not found:
        return None
    return 'linear' if None in found else f'mlp{len(found)}x_gelu'


def dense_name(projector: Any) -> str:
    """What LLaVA's configs call a projector of mmft: an MLP by its depth, others by their class."""
    kind = type(projector).__name__
    return f'mlp{projector.depth}x_gelu' if kind == 'MLP' else kind.lower()
