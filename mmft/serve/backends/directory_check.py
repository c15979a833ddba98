"""What is wrong with a directory that is to be served, before anything is started, and how to fix it.

Source: LMDeploy 0.18 and transformers 5.23, as tried. LMDeploy reports little of what it needs: it fails late, with an
error from deep inside, or answers nonsense.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mmft.errors import CheckpointError
from mmft.file_names import ADAPTER_CONFIG, PROCESSOR_FILES, TEMPLATE_FILES, TOKEN_FILES, TOKENIZER_FILES
from mmft.serve.backends.weight_files import WeightsError, tensor_names
from mmft.words import suggested

__all__ = ['ENGINES', 'HF_NATIVE', 'INTERNVL_CHAT', 'Problem', 'ServedDirectory', 'check_directory', 'needs_export',
           'served_as_it_is']  # fmt: skip

ENGINES = ('turbomind', 'pytorch', 'transformers')
LMDEPLOY = frozenset({'turbomind', 'pytorch'})
ALL = frozenset(ENGINES)

INTERNVL, LLAVA, LLAVA_NEXT, ONEVISION, INTERNVL_CHAT = (
    'InternVLForConditionalGeneration',
    'LlavaForConditionalGeneration',
    'LlavaNextForConditionalGeneration',
    'LlavaOnevisionForConditionalGeneration',
    'InternVLChatModel',
)
HF_NATIVE = (INTERNVL, LLAVA, LLAVA_NEXT, ONEVISION)
_EXPORT_AGAIN = 'export it again with mmft pth_to_hf'
_CHAT_KEYS = {
    '': ('auto_map', 'force_image_size', 'downsample_ratio', 'dynamic_image_size', 'min_dynamic_patch',
         'max_dynamic_patch', 'use_thumbnail'),
    'vision_config': ('image_size', 'patch_size'),
    'llm_config': ('architectures', 'bos_token_id', 'eos_token_id'),
}  # fmt: skip
"""What LMDeploy reads of an ``InternVLChatModel``: without a key it takes another picture size than the model's."""


@dataclass(frozen=True)
class Problem:
    """Something that keeps a directory from being served.

    Attributes:
        stops: the engines that cannot serve it because of this; empty: a remark.
    """

    what: str
    fix: str
    stops: frozenset[str] = ALL

    def __str__(self) -> str:
        return f'{self.what}\n  to do:    {self.fix}'


class ServedDirectory:
    """A directory, its small files read when they are asked for."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def json(self, name: str) -> dict[str, Any]:
        """A JSON file of the directory; empty where there is none that can be read."""
        try:
            content = json.loads(self.text(name))
        except ValueError:
            return {}
        return content if isinstance(content, dict) else {}

    def text(self, name: str) -> str:
        """A text file of the directory; empty where there is none that can be read."""
        try:
            return (self.path / name).read_text(encoding='utf-8')
        except (OSError, ValueError):
            return ''

    def has(self, *names: str) -> bool:
        """Whether it has one of these files."""
        return any((self.path / name).is_file() for name in names)

    @cached_property
    def config(self) -> dict[str, Any]:
        """``config.json``."""
        return self.json('config.json')

    @property
    def architecture(self) -> str:
        """The class that ``config.json`` names; empty where it names none."""
        named = self.config.get('architectures')
        return named[0] if isinstance(named, list) and named and isinstance(named[0], str) else ''

    @cached_property
    def tokenizer_config(self) -> dict[str, Any]:
        """``tokenizer_config.json``."""
        return self.json('tokenizer_config.json')

    @cached_property
    def chat_template(self) -> str:
        """The Jinja template; empty where there is none."""
        if self.has('chat_template.jinja'):
            return self.text('chat_template.jinja')
        found = [self.json(name).get('chat_template') for name in TEMPLATE_FILES[1:]]
        return next((text for text in found if isinstance(text, str) and text), '')

    def special_token(self, name: str) -> str:
        """A token that the tokenizer's config names, such as ``image_token``; empty where it does not."""
        config = self.tokenizer_config
        nested = config.get('extra_special_tokens') or config.get('model_specific_special_tokens') or {}
        value = config.get(name) or (nested.get(name) if isinstance(nested, Mapping) else None) or ''
        text = value.get('content') if isinstance(value, Mapping) else value
        return text if isinstance(text, str) else ''

    def render(self, content: Any) -> str | None:
        """A question through the chat template; None where that fails."""
        from transformers.utils.chat_template_utils import render_jinja_template

        tokens = {name: str(self.special_token(name)) for name in ('bos_token', 'eos_token', 'pad_token')}
        try:
            rendered, _ = render_jinja_template(
                conversations=[[{'role': 'user', 'content': content}]], chat_template=self.chat_template,
                add_generation_prompt=True, **tokens,
            )  # fmt: skip
        except Exception:  # a template is a program of others
            return None
        return rendered[0]


def check_directory(path: str | Path) -> list[Problem]:
    """Everything that is wrong with a directory.

    Returns:
        The problems; none: each engine that knows the model serves it.
    """
    from mmft.files.reading import reading

    try:
        with reading(f'{path}: one of its JSON files'):
            return _problems(ServedDirectory(path))
    except (CheckpointError, WeightsError) as error:
        return [Problem(error.what, error.fix)]


def _problems(directory: ServedDirectory) -> list[Problem]:
    broken = list(_not_a_model(directory))
    if broken:
        return broken
    tensors = tensor_names(directory.path)
    checks: list[Callable[[ServedDirectory], Iterator[Problem]]] = [_text_files, *_BY_CLASS[directory.architecture]]
    problems = [problem for check in checks for problem in check(directory)]
    problems += _tower_names(directory, tensors)
    if not tensors:
        what = 'weights in .bin files, which cannot be checked beforehand'
        problems.append(Problem(what, f'{_EXPORT_AGAIN}: it writes safetensors', frozenset()))
    return problems


def needs_export(path: str | Path) -> bool:
    """Whether no backend serves a directory as it is, but mmft reads it, and so can export it for them."""
    from mmft.files.partial import has_folders
    from mmft.layouts import matches_any

    directory = ServedDirectory(path)
    config = directory.config
    if not config or directory.architecture in _BY_CLASS or not matches_any(config):
        return False
    whole = not directory.has(ADAPTER_CONFIG) or directory.has('non_lora_trainables.bin')
    return whole or has_folders(directory.path)


def served_as_it_is(path: str | Path, remote_code: bool = False) -> bool:
    """Whether a backend may read a directory itself; any other is exported for it.

    One with an adapter may not, even with whole weights beside it: transformers takes the weights of the base that the
    adapter names instead, and PEFT imports the module that its ``megatron_core`` names.

    Args:
        remote_code: LMDeploy may run the Python files of an original InternVL2 directory.
    """
    directory = ServedDirectory(path)
    if directory.has(ADAPTER_CONFIG):
        return False
    return directory.architecture in HF_NATIVE or (remote_code and directory.architecture == INTERNVL_CHAT)


def _not_a_model(directory: ServedDirectory) -> Iterator[Problem]:
    path = directory.path
    if path.is_file():
        fix = 'serve a training checkpoint with --config CONFIG --checkpoint FILE' if path.suffix == '.pth' else (
            'name the directory it lies in')  # fmt: skip
        yield Problem(f'{path} is a file, not a model directory', fix)
    elif not path.is_dir():
        yield Problem(f'there is no directory {path}', 'check the path; exports are made by mmft pth_to_hf')
    elif needs_export(path):
        yield Problem(f'no backend serves {path} as it is', 'mmft serve exports it first, by itself')
    elif directory.has(ADAPTER_CONFIG) and not directory.has('model.safetensors', 'model.safetensors.index.json'):
        base = directory.json(ADAPTER_CONFIG).get('base_model_name_or_path') or 'its base'
        yield Problem(
            f'{path} holds a LoRA adapter only; the weights it belongs to are in {base}',
            'serve the training with --config CONFIG --checkpoint CKPT, which merges it, or export without --adapter',
        )
    elif not directory.has('config.json'):
        inside = sorted(child.name for child in path.iterdir() if (child / 'config.json').is_file())[:3]
        near = [str(path / name) for name in inside]
        yield Problem(f'no config.json in {path}', suggested(near, 'name the directory that an export wrote', str))
    elif not directory.config:
        yield Problem(f'{path}/config.json is not valid JSON', 'download or export it again')
    elif directory.architecture not in _BY_CLASS:
        found = directory.architecture or 'nothing'
        yield Problem(
            f'config.json names {found} as its architecture, which is not a model of mmft',
            f'serve one of {", ".join(_BY_CLASS)}, or a directory that mmft.load reads',
        )


def _text_files(directory: ServedDirectory) -> Iterator[Problem]:
    if not directory.has(*TOKENIZER_FILES):
        yield Problem('no tokenizer: neither tokenizer.json nor tokenizer.model',
                      "copy the tokenizer's files of the base into the directory")  # fmt: skip
    if not directory.chat_template:
        yield Problem('no chat template: neither chat_template.jinja nor one in tokenizer_config.json',
                      f'{_EXPORT_AGAIN}, or copy chat_template.jinja from where the model was published')  # fmt: skip
    name = str(directory.path.resolve()).lower()
    if ('llava' in name and 'v1' in name and 'mistral' not in name) or 'llava-1.5' in name:
        yield Problem("LMDeploy takes its own llava-v1 chat template for a path with 'llava' and 'v1' in it",
                      'rename the directory, or the one above it', LMDEPLOY)  # fmt: skip
    if str(directory.config.get('dtype') or directory.config.get('torch_dtype')) == 'float32':
        yield Problem('float32 weights: LMDeploy computes in float16', 'export with --dtype bfloat16', frozenset())


def _hf_native(directory: ServedDirectory) -> Iterator[Problem]:
    if not directory.has(*PROCESSOR_FILES):
        yield Problem('no preprocessor_config.json and no processor_config.json', _EXPORT_AGAIN)
    if not (directory.config.get('text_config') or {}).get('architectures'):
        yield Problem('config.json: text_config.architectures is missing or null',
                      'write the class in, such as ["LlamaForCausalLM"]', LMDEPLOY)  # fmt: skip
    if not directory.chat_template:
        return
    text = 'What dish is it?'
    listed = directory.render([{'type': 'image'}, {'type': 'text', 'text': text}])
    if listed is None or text not in listed:
        yield Problem('the chat template does not take a question that is a list of parts',
                      _EXPORT_AGAIN, frozenset({'transformers'}))  # fmt: skip
    elif directory.render([{'type': 'text', 'text': text}]) == listed:
        yield Problem('the chat template has no place for a picture', _EXPORT_AGAIN, frozenset({'transformers'}))
    if directory.architecture == LLAVA and text not in (directory.render(text) or ''):
        yield Problem('the chat template does not take a question that is plain text', _EXPORT_AGAIN, LMDEPLOY)


def _internvl(directory: ServedDirectory) -> Iterator[Problem]:
    names = ('start_image_token', 'end_image_token', 'context_image_token', 'video_token')
    missing = [name for name in names if not directory.special_token(name)]
    if missing:
        yield Problem(f'tokenizer_config.json: extra_special_tokens has no {", ".join(missing)}',
                      'add them: <img>, </img>, <IMG_CONTEXT> and <video>, as the tokenizer has them')  # fmt: skip


def _llava(directory: ServedDirectory) -> Iterator[Problem]:
    config, text = directory.config, directory.config.get('text_config') or {}
    pad = config.get('pad_token_id')
    ends = [config.get('eos_token_id'), text.get('eos_token_id')]
    pad_text, end_text = directory.special_token('pad_token'), directory.special_token('eos_token')
    if pad is None and (not pad_text or pad_text == end_text):
        yield Problem('the tokenizer has no pad token of its own; LMDeploy puts it where pictures go',
                      'give it one, and config.json its pad_token_id', LMDEPLOY)  # fmt: skip
    elif pad is not None and pad in [token for end in ends for token in (end if isinstance(end, list) else [end])]:
        yield Problem(f'config.json: pad_token_id is {pad}, the end token; LMDeploy puts the pad where pictures go',
                      'set it to the id of a token that no text contains', LMDEPLOY)  # fmt: skip


def _internvl_chat(directory: ServedDirectory) -> Iterator[Problem]:
    missing = [name for name in _python_files(directory) if not directory.has(name)]
    if missing:
        yield Problem(f'no {", ".join(missing)}: LMDeploy runs them (--trust-remote-code)',
                      'copy them from where the model was published', LMDEPLOY)  # fmt: skip
    for section, names in _CHAT_KEYS.items():
        part = directory.config.get(section) or {} if section else directory.config
        absent = [name for name in names if part.get(name) is None]
        if absent:
            yield Problem(f'config.json: {f"{section} has " if section else ""}no {", ".join(absent)}',
                          'write them in, as the published config.json has them', LMDEPLOY)  # fmt: skip
    if not any('<IMG_CONTEXT>' in directory.text(name) for name in TOKEN_FILES):
        yield Problem('the tokenizer has no <IMG_CONTEXT>, where pictures go',
                      "copy the tokenizer's files from where the model was published", LMDEPLOY)  # fmt: skip


def _python_files(directory: ServedDirectory) -> list[str]:
    """The files that its config class needs, those that it imports among them: which ones, the language model says."""
    first = 'configuration_internvl_chat.py'
    imported = re.findall(r'^from \.(configuration_\w+) import', directory.text(first), re.MULTILINE)
    return list(dict.fromkeys([first, 'configuration_intern_vit.py', *(f'{name}.py' for name in imported)]))


def _tower_names(directory: ServedDirectory, tensors: set[str]) -> Iterator[Problem]:
    """transformers 5 writes ``vision_tower.embeddings`` for a LLaVA built from a config, which LMDeploy cannot read."""
    names = [name.removeprefix('model.') for name in tensors]
    towers = [name for name in names if name.startswith('vision_tower.')]
    if directory.architecture == LLAVA and towers and not any('vision_model.' in name for name in towers):
        yield Problem(f'the tower is named {towers[0]}; LMDeploy wants vision_tower.vision_model...',
                      _EXPORT_AGAIN, LMDEPLOY)  # fmt: skip


_BY_CLASS: dict[str, list[Callable[[ServedDirectory], Iterator[Problem]]]] = {
    INTERNVL: [_hf_native, _internvl],
    LLAVA: [_hf_native, _llava],
    LLAVA_NEXT: [_hf_native, _llava],
    ONEVISION: [_hf_native, _llava],
    INTERNVL_CHAT: [_internvl_chat],
}
