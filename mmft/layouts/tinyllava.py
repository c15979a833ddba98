"""TinyLLaVA Factory's layout (``TinyLlavaForConditionalGeneration``): any of its towers, connectors and LLMs.

Whole, or in the folders that ``mmft/files/partial.py`` reads.

Sources: ``tinyllava/model/{modeling,configuration}_tinyllava.py``, ``vision_tower/mof.py`` and ``connector/*.py`` of
TinyLLaVA/TinyLLaVA_Factory.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mmft.errors import CheckpointError
from mmft.files.directory import ModelDirectory
from mmft.layouts.base import Layout, refuse
from mmft.layouts.language import family_of, family_of_keys, language_model
from mmft.layouts.llava_encoder import image_processor, llava_encoder, unpadded
from mmft.layouts.projectors import connector_rules, dense_name, dense_type
from mmft.layouts.rules import Rule
from mmft.layouts.small_files import Contents, llm_ids, older_config, plain_config
from mmft.layouts.vision import KNOWN_TOWERS, tower_ignored, tower_rules, vision_tower
from mmft.models.language.family import held_by
from mmft.models.normalizer import TOWER_PIXELS

__all__ = ['TinyLlava']

_TOWER, _CONNECTOR = 'vision_tower._vision_tower.', 'connector._connector.'
CONNECTORS = ('Identity', 'Linear', 'MLP', 'Resampler', 'QFormer', 'MoFMLP')


class TinyLlava(Layout):
    """The layout of TinyLLaVA Factory's directories.

    Its ``patch`` drops the first token of every tower, also SigLIP's, which has no class token: such a tower is read
    with ``drop_first=True``.
    """

    architecture = 'TinyLlavaForConditionalGeneration'
    option = 'official'

    def __init__(self, model: dict[str, Any], options: dict[str, Any] | None = None) -> None:
        super().__init__(model, options)
        heads = [name for at, tower, _ in self._towers() for name in tower_ignored(tower['type'], at)]
        self.ignored = (*Layout.ignored, *heads)

    @classmethod
    def matches(cls, config: dict[str, Any]) -> bool:
        return super().matches(config) or config.get('model_type') == 'tinyllava'

    @classmethod
    def from_config(cls, config: dict[str, Any], directory: ModelDirectory | None = None) -> TinyLlava:
        where = 'config.json' if directory is None else str(directory.path)
        keys = list(directory.tensors) if directory is not None else []
        text = config['text_config']
        kind = family_of(text) or family_of_keys(key for key in keys if key.startswith('language_model.'))
        vision = cls._vision(config, directory, keys, where)
        model = {
            'type': 'VLM',
            'vision': vision,
            'projector': cls._connector(config, keys),
            # The top of the file says transformers' default, whatever the language model does.
            'llm': language_model(text, where, kind),
            **TOWER_PIXELS.get(vision['type'], {}),
        }
        if 'language_model.lm_head.weight' in keys:
            model['llm'].setdefault('tie_word_embeddings', False)
        return cls(model, config)

    @staticmethod
    def _vision(
        config: dict[str, Any], directory: ModelDirectory | None, keys: list[str], where: str
    ) -> dict[str, Any]:
        feature = config.get('vision_feature_select_strategy', 'patch')
        features = {'select_layer': config.get('vision_feature_layer', -2), 'select_feature': feature}
        if not any(key.startswith(f'{_TOWER}dinov2.') for key in keys):
            tower = vision_tower(config['vision_config'], where, [key for key in keys if key.startswith(_TOWER)])
            drop = {'drop_first': feature == 'patch'} if tower['type'] == 'SigLIP' else {}
            return {**tower, **features, **drop}
        first = [key for key in keys if key.startswith(f'{_TOWER}clip.')]
        towers = [vision_tower(config['vision_config'], where, first), _second_tower(config, directory, where)]
        return {'type': 'MoFTower', 'towers': [{**tower, **features} for tower in towers]}

    @staticmethod
    def _connector(config: dict[str, Any], keys: list[str]) -> dict[str, Any]:
        kind = str(config.get('connector_type'))
        held = dense_type(keys, _CONNECTOR)
        if held not in (None, kind):
            raise CheckpointError(
                f'config.json: connector_type {kind!r}, but the weights hold {held!r}',
                expected='the config.json that was saved with these weights',
                fix=f'set connector_type to {held!r}, or take the connector that belongs to it',
            )
        queries = {'num_queries': config['num_queries']} if config.get('num_queries') else {}
        if match := re.fullmatch(r'mlp(\d+)x_gelu', kind):
            return {'type': 'MLP', 'depth': int(match[1]), 'act': 'gelu'}
        if kind in ('linear', 'identity'):
            return {'type': kind.capitalize()}
        if kind == 'resampler':
            depth = config.get('num_resampler_layers')
            return {'type': 'Resampler', **queries, **({'depth': depth} if depth else {})}
        if kind == 'qformer':
            layers = {key.split('.')[5] for key in keys if key.startswith(f'{_CONNECTOR}bert.encoder.layer.')}
            # bert-base-uncased, of which the original keeps as many layers as it has.
            return {'type': 'QFormer', 'query_norm': False, **queries,
                    **({'num_hidden_layers': len(layers)} if layers else {})}  # fmt: skip
        if kind == 'mof_mlp':
            return {'type': 'MoFMLP', 'depth': 2}
        raise CheckpointError(
            f'config.json: connector_type {kind!r}',
            expected="'identity', 'linear', 'mlp2x_gelu', 'resampler', 'qformer' or 'mof_mlp'",
        )

    @classmethod
    def from_model(cls, model_config: dict[str, Any]) -> TinyLlava:
        vision, projector = model_config['vision'], model_config['projector']
        problems = []
        if vision['type'] not in ('CLIP', 'SigLIP', 'DINOv2'):
            problems.append(f'the tower {vision["type"]}: it has CLIP, SigLIP and DINOv2')
        elif vision['type'] == 'SigLIP' and not vision.get('drop_first'):
            problems.append('SigLIP with all its patches: its code drops the first (drop_first=True)')
        if projector['type'] not in CONNECTORS[:-1]:
            problems.append(f'the projector {projector["type"]}: it has {", ".join(CONNECTORS[:-1])}')
        problems += _unsaid(projector)
        if model_config.get('merge'):
            problems.append('tiles that are merged')
        if model_config['llm']['type'] not in held_by('tinyllava'):
            problems.append(f'the language model {model_config["llm"]["type"]}')
        refuse("TinyLLaVA's own layout", problems)
        return cls(model_config)

    def encoder_config(self, directory: Path) -> dict[str, Any]:
        # Of two towers the first says what a picture becomes.
        seen = {**self._model, 'vision': self._towers()[0][1]}
        return llava_encoder(self._model, image_processor(self.options, seen))

    def _towers(self) -> list[tuple[str, dict[str, Any], str]]:
        """(prefix on disk, its dict, prefix here) of each tower."""
        vision = self._model['vision']
        if vision['type'] != 'MoFTower':
            return [(_TOWER, vision, 'vision.')]
        names = ('clip', 'dinov2')
        return [(f'{_TOWER}{name}.', tower, f'vision.towers.{i}.')
                for i, (name, tower) in enumerate(zip(names, vision['towers'], strict=True))]  # fmt: skip

    @property
    def rules(self) -> list[Rule]:
        return [
            *(rule for theirs, tower, ours in self._towers() for rule in tower_rules(tower['type'], theirs, ours)),
            *connector_rules(self._model['projector']['type'], _CONNECTOR),
            Rule('language_model.{x}', 'llm.lm.{x}'),
        ]

    def check(self, contents: Contents) -> None:
        kind, aspects = contents.tiler.get('type'), _aspects(contents)
        problems = contents.pixel_problems(type(contents.model.vision).__name__)
        if kind is not None and kind not in aspects:
            problems.append(f'{kind}: with this tower it has {", ".join(aspects)}')
        refuse("TinyLLaVA's own layout", problems, '; use --layout native')

    def config_json(self, contents: Contents) -> dict[str, Any]:
        model, encoder = contents.model, contents.encoder
        projector, llm = model.projector, model.llm.lm
        connector = dense_name(projector)
        text = older_config(llm.config)
        text |= llm_ids(text, encoder) | {'architectures': [type(llm).__name__], 'torch_dtype': contents.dtype}
        vision = plain_config(model.vision.tower.config)
        return {
            'architectures': [self.architecture],
            'model_type': 'tinyllava',
            'torch_dtype': contents.dtype,
            # Names on a hub, which its programs want only where a part is to be fetched; the weights are all here.
            'llm_model_name_or_path': text['model_type'],
            'tokenizer_name_or_path': text['model_type'],
            'vision_model_name_or_path': vision['model_type'],
            'connector_type': connector,
            'num_queries': getattr(projector, 'num_queries', None),
            'num_resampler_layers': getattr(projector, 'depth', None) if connector == 'resampler' else None,
            'resampler_hidden_size': None,
            'vision_feature_layer': model.vision.select_layer,
            'vision_feature_select_strategy': model.vision.select_feature,
            'image_aspect_ratio': _aspects(contents).get(contents.tiler.get('type'), 'square'),
            'tokenizer_use_fast': True,
            'tokenizer_padding_side': 'right',
            'tokenizer_model_max_length': text.get('max_position_embeddings'),
            'hidden_size': model.llm.hidden_size,
            'vocab_size': model.llm.vocab_size,
            'vision_hidden_size': model.vision.hidden_size,
            'tie_word_embeddings': bool(llm.config.tie_word_embeddings),
            'text_config': text,
            'vision_config': vision,
        }


def _aspects(contents: Contents) -> dict[str, str]:
    """``image_aspect_ratio`` of the image processors that it has."""
    return {'PadSquare': 'pad', unpadded(type(contents.model.vision).__name__): 'square'}


def _second_tower(config: dict[str, Any], directory: ModelDirectory | None, where: str) -> dict[str, Any]:
    """The DINOv2 of a MoF: ``config.json`` holds the CLIP's numbers and only the name of the other's directory."""
    name = config.get('vision_model_name_or_path2') or config['vision_config'].get('model_name_or_path2') or ''
    name = str(name).split(':')[-1]  # as in 'mof:facebook/dinov2-large'
    known = KNOWN_TOWERS.get(name)
    if directory is None or (known and directory.vision is None):
        return vision_tower(known or {}, where)
    found = directory.find(
        name,
        directory.vision,
        "the numbers of its second tower's config: the directory",
        "put that tower's config.json there, or pass its directory: mmft.load(path, vision=...)",
    )
    return vision_tower(ModelDirectory(found).config, str(found))


_BERT = {
    'query_norm': (True, False), 'vision_norm': (None, None), 'encoder_dim': (None, None), 'proj': (True, True),
    'hidden_size': (768, 768), 'num_hidden_layers': (12, 12), 'num_attention_heads': (12, 12),
    'intermediate_size': (3072, 3072), 'cross_attention_frequency': (2, 2), 'hidden_act': ('gelu', 'gelu'),
    'layer_norm_eps': (1e-12, 1e-12),
}  # fmt: skip
_FIXED: dict[str, dict[str, tuple[Any, Any]]] = {
    'MLP': {'act': ('gelu', 'gelu'), 'hidden_dim': (None, None)},
    'Resampler': {'num_heads': (8, 8), 'head_dim': (64, 64)},
    'QFormer': _BERT,
}
"""What ``config.json`` has no entry for: mmft's default, and what the Factory's code builds (BERT-base, say)."""


def _unsaid(projector: dict[str, Any]) -> list[str]:
    """Settings of a projector that this layout would lose; those of training alone, such as ``dropout``, may go."""
    return [
        f'{projector["type"]}({name}={got!r}): its code builds {name}={built!r}'
        for name, (default, built) in _FIXED.get(projector['type'], {}).items()
        if (got := projector.get(name, default)) != built
    ]
