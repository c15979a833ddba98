"""Model directories of every layout, names planted in their files, and a watch that sees what runs or is imported."""

from __future__ import annotations

import contextlib
import copy
import itertools
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from mmft.data import ChatEncoder
from mmft.export import convert
from mmft.registry import MODELS
from tests.engine.tiny import TOKENIZER
from tests.helpers import GOLDEN

MODULE = 'zzplanted'
"""A module that Python finds and that nobody has asked for; it must not be imported."""

PROGRAM = {'args': ['touch', '/tmp/zzplanted-has-run']}
NAMES = ('subprocess.Popen', 'os.system', 'builtins.exec', 'mmengine.utils.get_object_from_string', 'torch.hub.load',
         'mmdet.X', f'{MODULE}.run', f'{MODULE}:run', f'{MODULE}.Part', MODULE, '__main__.X', ['VLM'], 5)  # fmt: skip
ELSEWHERE = {
    '_scope_': MODULE,
    '_target_': f'{MODULE}.run',
    'auto_map': dict.fromkeys(('AutoConfig', 'AutoModel', 'AutoTokenizer', 'AutoProcessor'), f'{MODULE}.Part'),
    'tokenizer_class': f'{MODULE}.Part',
    'processor_class': f'{MODULE}.Part',
    'image_processor_type': f'{MODULE}.Part',
    'feature_extractor_type': f'{MODULE}.Part',
    'custom_pipelines': {MODULE: {'impl': f'{MODULE}.Part'}},
    'custom_generate': MODULE,
    'attn_implementation': f'{MODULE}/run',
    '_attn_implementation': f'{MODULE}/run',
    'quantization_config': {'quant_method': MODULE, 'modules': f'{MODULE}.Part'},
    'base_model_class': f'{MODULE}.Part',
    'parent_library': MODULE,
}
"""Keys by which one library or another finds code."""

_EVENTS = {'subprocess.Popen', 'os.system', 'os.exec', 'os.posix_spawn', 'os.spawn', 'pickle.find_class', 'pty.spawn',
           'socket.connect', 'webbrowser.open'}  # fmt: skip
_seen: list[str] | None = None


def _hook(event: str, args: tuple[Any, ...]) -> None:
    if _seen is not None and (event in _EVENTS or (event == 'import' and str(args[0]).startswith((MODULE, 'mmdet')))):
        _seen.append(f'{event} {args}')


sys.addaudithook(_hook)  # there is no way to take one away


@contextlib.contextmanager
def watched(named: bool = False) -> Iterator[None]:
    """Fails if anything was started, fetched, unpickled or imported.

    Args:
        named: only what was planted: training itself starts processes.
    """
    global _seen
    _seen = []
    try:
        yield
    finally:
        seen, _seen = _seen, None
    assert not [event for event in seen if MODULE in event or not named]
    assert MODULE not in sys.modules


def write_module(folder: Path) -> None:
    """The module, where Python finds it."""
    (folder / f'{MODULE}.py').write_text('class Part:\n    pass\n\n\ndef run(*_, **__):\n    return Part()\n')


SMALL = {'hidden_size': 32, 'num_hidden_layers': 2, 'num_attention_heads': 2, 'intermediate_size': 32}
CLIP = {'type': 'CLIP', **SMALL, 'image_size': 28, 'patch_size': 7}
LLAMA = {'type': 'Llama', **SMALL, 'vocab_size': 1032, 'num_key_value_heads': 1}
MODEL = {
    'type': 'VLM',
    'vision': {'type': 'InternViT', **SMALL, 'image_size': 28, 'patch_size': 7},
    'projector': {'type': 'PixelShuffleMLP', 'scale': 0.5, 'version': 'v2'},
    'llm': LLAMA,
}
MODELS_OF = {
    'native': MODEL,
    'towers': {**MODEL, 'projector': {'type': 'MLP'},
               'vision': {'type': 'MoFTower', 'towers': [CLIP, {**CLIP, 'type': 'DINOv2'}]}},
    'merge': {**MODEL, 'vision': CLIP, 'projector': {'type': 'MLP'}, 'merge': {'type': 'AnyResMerge'},
              'llm': {**LLAMA, 'rope_scaling': {'type': 'linear', 'factor': 2.0}}},
}  # fmt: skip
"""Directories of mmft's own layout, between them with every place for a part."""


def write_native(folder: Path, model: dict[str, Any]) -> Path:
    """A directory of mmft's own layout, random weights, with an encoder."""
    torch.manual_seed(0)
    built = MODELS.build(copy.deepcopy(model))
    processor = {'type': 'AnyResTiler' if 'merge' in model else 'Resize', 'tile_size': 28}
    encoder = ChatEncoder(TOKENIZER, 'internlm2-chat', processor, built.num_image_tokens(28), add_tokens=True)
    folder.mkdir(parents=True)
    encoder.save_pretrained(folder)
    tensors = {name: value.contiguous() for name, value in built.state_dict().items() if 'position_ids' not in name}
    save_file({name: tensors[name].clone() for name in dict(built.named_parameters())}, folder / 'model.safetensors')
    config = {'architectures': ['MMFTForConditionalGeneration'], 'model_type': 'mmft', 'model': model}
    (folder / 'config.json').write_text(json.dumps(config))
    (folder / 'generation_config.json').write_text(json.dumps({'eos_token_id': 2}))
    return folder


def write_layouts(root: Path) -> dict[str, Path]:
    """A directory of every layout."""
    made = {name: write_native(root / name, model) for name, model in MODELS_OF.items()}
    for layout in ('hf', 'official'):
        made[layout] = root / layout
        convert({'pretrained': str(made['native'])}, None, made[layout], layout, check='none')
    for case in ('llava15', 'tinyllava_model'):
        made[case] = root / case
        shutil.copytree(GOLDEN / case, made[case], ignore=shutil.ignore_patterns('*.gz', 'README.txt'))
    return made


def nodes(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The place of every dict in a JSON value; of many that lie beside each other, the first two."""
    if isinstance(value, dict):
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    deeper = [(key, item) for key, item in items if isinstance(item, (dict, list))]
    for key, item in deeper if len(deeper) <= 8 else deeper[:2]:
        yield from nodes(item, (*path, key))


def plants(content: Any) -> Iterator[tuple[tuple[Any, ...], str, Any]]:
    """(place, kind, the content with something planted there), for every place of a JSON value."""
    names = itertools.cycle(NAMES)
    for path in nodes(content):
        for kind in ('type', 'elsewhere'):
            changed = copy.deepcopy(content)
            node = changed
            for key in path:
                node = node[key]
            node |= {'type': next(names), **PROGRAM} if kind == 'type' else copy.deepcopy(ELSEWHERE)
            yield path, kind, changed
