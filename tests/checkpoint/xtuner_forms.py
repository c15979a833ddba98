"""XTuner's LLaVAs on Llama 3 and Phi-3, small, as its scripts write them: for transformers, for LLaVA and in parts.

What stands here of these forms is from XTuner's files, written anew: ``configs/llava/{llama3_8b_instruct,
phi3_mini_4k_instruct}_clip_vit_large_p14_336`` (README.md, ``convert_phi_to_llama.py``, ``convert_xtuner_weights_to_
{hf,llava}.py``), ``utils/templates.py`` and ``dataset/utils.py`` of InternLM/xtuner 0.1.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from mmft.structures import IGNORE_INDEX
from tests.data.llama3 import LLAMA_3, write_llama3
from tests.data.phi3 import PHI_3, write_phi3
from tests.export.tiny_llava import CLIP_MEAN, CLIP_STD

__all__ = ['FORMS', 'MODELS', 'SLOTS', 'Form', 'make', 'xtuner_ids']

FORMS = ('transformers', 'official', 'xtuner')
SLOTS = 16
SIZES = {'hidden_size': 16, 'num_attention_heads': 2, 'num_hidden_layers': 3, 'intermediate_size': 32}
VISION = {**SIZES, 'image_size': 28, 'patch_size': 7}
COMMON = {**SIZES, 'bos_token_id': 1, 'eos_token_id': 2, 'hidden_act': 'silu', 'rms_norm_eps': 1e-5,
          'max_position_embeddings': 4096, 'tie_word_embeddings': False, 'torch_dtype': 'float16'}  # fmt: skip
TOWER = 'clip-tiny'


@dataclass(frozen=True)
class Published:
    """What XTuner says of a model.

    Attributes:
        write: writes the tokenizer of its language model, with further special tokens.
        jinja: the chat template of that tokenizer.
        instruction, suffix, system: of ``PROMPT_TEMPLATE.llama3_chat`` and ``phi3_chat``.
        added: what ``LlamaTokenizerFast`` and the script for transformers add.
        grows: whether the table has no rows for these; it then grows to a multiple of 64.
        numbers: entries of ``config.json``.
        adapter: XTuner trained the tower by LoRA, and its own form holds the adapter alone.
    """

    write: Callable[..., None]
    jinja: str
    instruction: str
    suffix: str
    system: str
    added: tuple[str, ...]
    grows: bool
    numbers: dict[str, Any]
    adapter: bool


MODELS = {
    'llama3': Published(
        write_llama3,
        LLAMA_3,
        '<|start_header_id|>user<|end_header_id|>\n\n{input}<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n',
        suffix='<|eot_id|>',
        system='<|start_header_id|>system<|end_header_id|>\n\n{system}<|eot_id|>',
        added=('<unk>', '<image>', '<pad>'),
        grows=True,
        numbers={'model_type': 'llama', 'architectures': ['LlamaForCausalLM'], 'num_key_value_heads': 1,
                 'rope_theta': 500000.0},
        adapter=True,
    ),
    'phi3': Published(
        write_phi3,
        PHI_3,
        '<|user|>\n{input}<|end|>\n<|assistant|>\n',
        suffix='<|end|>',
        system='<|system|>\n{system}<|end|>\n',
        added=('<image>', '<pad>'),
        grows=False,
        # The scripts leave the window of Phi-3 in the config of what is then a Llama, whose code does not read it.
        numbers={'model_type': 'phi3', 'architectures': ['Phi3ForCausalLM'], 'num_key_value_heads': 2,
                 'sliding_window': 2047, 'original_max_position_embeddings': 4096, 'rope_scaling': None,
                 'rope_theta': 10000.0},
        adapter=False,
    ),
}  # fmt: skip


@dataclass
class Form:
    """A model in one of the forms.

    Attributes:
        source: what ``mmft.load`` and ``pretrained`` take.
        config: mmft's ``model``, for the form in parts; else None.
        theirs: the same model in transformers' class.
        rows: those of its table that the form holds.
        image: the id of ``<image>`` in mmft; a tokenizer without it is given it as its next token.
    """

    path: Path
    source: Any
    config: dict[str, Any] | None
    theirs: LlavaForConditionalGeneration
    rows: int
    image: int


def make(name: str, form: str, root: Path) -> Form:
    """A model with random weights of float16 in ``root / name``; what it names lies beside it."""
    published, path = MODELS[name], root / name
    path.mkdir()
    own = ['<|reserved_special_token_0|>'] if published.grows else []
    published.write(path, *own)
    before = Tokenizer.from_file(str(path / 'tokenizer.json')).get_vocab_size()
    rows = before if published.grows else before + 20
    large = -(-(before + len(published.added)) // 64) * 64 if published.grows else rows
    more = {'chat_template': published.jinja} | ({'pad_token': '<pad>'} if form == 'transformers' else {})
    published.write(path, *own, *(published.added if form == 'transformers' else ()), **more)
    ids = {text: before + place for place, text in enumerate(published.added)}
    theirs = _random(published, large, before, ids['<image>'])
    tensors = {_then(key): value.contiguous() for key, value in theirs.state_dict().items()}
    tower = {
        'model_type': 'clip_vision_model',
        'hidden_act': 'quick_gelu',
        'architectures': ['CLIPVisionModel'],
        **VISION,
    }
    as_llama = {'model_type': 'llama', 'architectures': ['LlamaForCausalLM']}
    text = {**COMMON, **published.numbers}
    if form == 'transformers':
        config = {
            'architectures': ['LlavaForConditionalGeneration'], 'model_type': 'llava', 'torch_dtype': 'float16',
            'image_token_index': ids['<image>'], 'pad_token_id': ids['<pad>'], 'ignore_index': -100,
            'projector_hidden_act': 'gelu', 'vision_feature_layer': -2, 'vision_feature_select_strategy': 'default',
            'text_config': {**text, **as_llama, 'vocab_size': large}, 'vision_config': tower,
        }  # fmt: skip
        _save(path, _half(tensors), config)
        return Form(path, path, None, theirs, large, ids['<image>'])
    tensors = {_official(key): value[:rows] if value.shape[0] == large else value for key, value in tensors.items()}
    if form == 'official':
        config = {
            **text, 'architectures': ['LlavaLlamaForCausalLM'], 'model_type': 'llava_llama', 'vocab_size': rows,
            'image_aspect_ratio': 'pad', 'mm_hidden_size': 16, 'mm_projector_type': 'mlp2x_gelu',
            'mm_use_im_patch_token': False, 'mm_use_im_start_end': False, 'mm_vision_select_feature': 'patch',
            'mm_vision_select_layer': -2, 'mm_vision_tower': TOWER, 'unfreeze_mm_vision_tower': True,
            'use_mm_proj': True,
        }  # fmt: skip
        _save(path, _half(tensors), config)
        _save(root / TOWER, {}, tower)
        return Form(path, path, None, theirs, rows, before)
    parts = _save_parts(path, tensors, {**text, 'vocab_size': rows}, tower, published)
    kind = 'Phi3' if text['model_type'] == 'phi3' else 'Llama'
    named = ('num_key_value_heads', 'rope_theta', 'sliding_window')
    config = {
        'type': 'VLM',
        'vision': {'type': 'CLIP', 'select_layer': -2, 'hidden_act': 'quick_gelu', **VISION},
        'projector': {'type': 'MLP', 'depth': 2},
        'llm': {'type': kind, 'vocab_size': rows, **{key: text[key] for key in text if key in (*SIZES, *named)},
                'rms_norm_eps': 1e-5, 'pad_token_id': 0, 'bos_token_id': 1, 'eos_token_id': 2},
        'pixel_mean': CLIP_MEAN, 'pixel_std': CLIP_STD,
    }  # fmt: skip
    return Form(path, parts, config, theirs, rows, before)


def _random(published: Published, rows: int, known: int, image: int) -> LlavaForConditionalGeneration:
    """No token beyond the ``known`` ones is ever the most likely."""
    numbers = {**SIZES, 'rms_norm_eps': 1e-5, 'max_position_embeddings': 4096, 'vocab_size': rows}
    numbers |= {key: published.numbers[key] for key in ('num_key_value_heads', 'rope_theta')}
    text = LlamaConfig(bos_token_id=1, eos_token_id=2, pad_token_id=0, **numbers)
    torch.manual_seed(0)
    config = LlavaConfig(vision_config=CLIPVisionConfig(**VISION), text_config=text, image_token_index=image)
    model = LlavaForConditionalGeneration(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_((torch.randn_like(parameter) * 0.2).half())
        model.lm_head.weight[known:] = 0
    return model


def _then(key: str) -> str:
    """A name of transformers 5 as transformers 4.40 wrote it."""
    for now, then in (('model.language_model.', 'language_model.model.'), ('lm_head.', 'language_model.lm_head.'),
                      ('model.vision_tower.', 'vision_tower.vision_model.'),
                      ('model.multi_modal_projector.', 'multi_modal_projector.')):  # fmt: skip
        if key.startswith(now):
            return then + key.removeprefix(now)
    raise AssertionError(key)


def _official(key: str) -> str:
    """The same in LLaVA's own form."""
    for theirs, official in (('language_model.', ''), ('vision_tower.', 'model.vision_tower.vision_tower.'),
                             ('multi_modal_projector.linear_1.', 'model.mm_projector.0.'),
                             ('multi_modal_projector.linear_2.', 'model.mm_projector.2.')):  # fmt: skip
        if key.startswith(theirs):
            return official + key.removeprefix(theirs)
    raise AssertionError(key)


def _half(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key: value.half() for key, value in tensors.items()}


def _save(path: Path, tensors: dict[str, torch.Tensor], config: dict[str, Any]) -> None:
    path.mkdir(exist_ok=True)
    (path / 'config.json').write_text(json.dumps(config))
    if tensors:
        save_file({key: value.contiguous().clone() for key, value in tensors.items()}, path / 'model.safetensors',
                  {'format': 'pt'})  # fmt: skip


def _under(tensors: dict[str, torch.Tensor], start: str, new: str) -> dict[str, torch.Tensor]:
    return {new + key.removeprefix(start): value for key, value in tensors.items() if key.startswith(start)}


def _save_parts(
    path: Path, tensors: dict[str, torch.Tensor], text: dict[str, Any], tower: dict[str, Any], published: Published
) -> dict[str, str]:
    """A language model with ``projector/`` and the tower, or its adapter, beside its files; returns the parts."""
    llm = {key: value for key, value in tensors.items() if 'vision_tower' not in key and 'mm_projector' not in key}
    _save(path, _packed(llm) if text['model_type'] == 'phi3' else llm, text)
    projector = {'model_type': 'projector', 'hidden_act': 'gelu', 'depth': 2, 'bias': True}
    _save(path / 'projector', _under(tensors, 'model.mm_projector.', 'model.'), projector)
    held = _under(tensors, 'model.vision_tower.vision_tower.', '')
    if not published.adapter:
        _save(path / 'visual_encoder', held, tower)
        return {'llm': str(path), 'vision': str(path / 'visual_encoder'), 'projector': str(path / 'projector')}
    _save(path / TOWER, _without_adapter(held, path / 'visual_encoder_adapter'), tower)
    return {'llm': str(path), 'vision': str(path / 'visual_encoder_adapter'), 'projector': str(path / 'projector')}


def _packed(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Phi-3's names of the same weights: what ``convert_phi_to_llama.py`` splits in three and in two."""
    made = dict(tensors)
    for key in tensors:
        for first, others, whole in (
            ('q_proj', ('k_proj', 'v_proj'), 'qkv_proj'),
            ('gate_proj', ('up_proj',), 'gate_up_proj'),
        ):
            if f'.{first}.' in key:
                names = [key, *(key.replace(first, other) for other in others)]
                made[key.replace(first, whole)] = torch.cat([made.pop(name) for name in names])
    return made


def _without_adapter(merged: dict[str, torch.Tensor], directory: Path) -> dict[str, torch.Tensor]:
    """Write an adapter, and return the tower that it makes ``merged`` of."""
    tower = CLIPVisionModel(CLIPVisionConfig(**VISION))
    tower.load_state_dict({key.removeprefix('vision_model.'): value for key, value in merged.items()})
    targets = ['q_proj', 'k_proj', 'v_proj', 'out_proj', 'fc1', 'fc2']
    torch.manual_seed(1)
    wrapped = get_peft_model(tower, LoraConfig(r=2, lora_alpha=1, target_modules=targets, init_lora_weights=False))
    wrapped.peft_config['default'].base_model_name_or_path = f'openai/{TOWER}'
    wrapped.save_pretrained(directory)
    file = directory / 'adapter_model.safetensors'
    then = {key.replace('base_model.model.', 'base_model.model.vision_model.'): v for key, v in load_file(file).items()}
    save_file(then, file)
    base = dict(merged)
    for name, module in wrapped.base_model.model.named_modules():
        if hasattr(module, 'lora_A'):
            base[f'vision_model.{name}.weight'] = merged[f'vision_model.{name}.weight'] - module.get_delta_weight(
                'default'
            )
    return {key: value.detach() for key, value in base.items()}


def xtuner_ids(
    name: str, tokenizer: Tokenizer, turns: list[tuple[str, str]], image: int, system: str = ''
) -> tuple[list[int], list[int]]:
    """Token ids and labels of (question, answer) turns as XTuner's dataset makes them, ``SLOTS`` for a picture.

    XTuner tokenizes the question, what stands before and after its picture, and the answer each by itself. Phi-3's
    ``SEP``, a newline after each answer, is left out here: XTuner tokenizes it by itself too and trains nothing on it;
    in a prompt, its own included, it belongs to the ``<|end|>`` before it.
    """
    published = MODELS[name]

    def plain(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False).ids

    ids = tokenizer.encode('', add_special_tokens=True).ids  # BOS
    labels = [IGNORE_INDEX] * len(ids)
    for number, (question, answer) in enumerate(turns):
        given = published.system.format(system=system) if system and not number else ''
        first, *others = (given + published.instruction.format(input=question)).split('<image>')
        asked = plain(first)
        for other in others:
            asked += [image] * SLOTS + plain(other)
        said = plain(answer + published.suffix)
        ids += [*asked, *said]
        labels += [IGNORE_INDEX] * len(asked) + said
    return ids, labels
