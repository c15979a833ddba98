"""Exports of trainings in LMDeploy 0.18: architecture, preprocessing, weight loader, forward.

Of trainings with LoRA, in shards, with pictures that are resized, and a system message; every row of the table of
``mmft serve``, through HTTP too, is in ``tests/serve/test_lmdeploy.py``. OpenGVLab's layout runs the configuration
files of the base (``--trust-remote-code``): stand-ins of our own with the fields that LMDeploy reads.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from transformers import dynamic_module_utils

from mmft.data import ChatEncoder
from mmft.export import convert
from mmft.models import VLM
from mmft.models.language.family import families, held_by
from tests.export.tiny import LORA, make_base, make_checkpoint, make_encoder, model_config, picture
from tests.export.tiny_llava import llava_config, llava_encoder
from tests.serve.lmdeploy_cpu import Served, preprocess, same_answer, same_prompt, user

QUESTION = 'What dish is it? 这是什么菜？'
ANSWER = {'role': 'assistant', 'content': 'Rice rolls.'}
STAND_INS = Path(__file__).parents[1] / 'serve' / 'internvl_remote'
INTERNVL, LLAVA, CHAT = 'InternVLForConditionalGeneration', 'LlavaForConditionalGeneration', 'InternVLChatModel'
# Llama's placeholder lies beyond the base's table, as Vicuna's does; Qwen2's head is tied to its embedding.
SPARE = {'Llama': -1, 'Qwen2': 5, 'Mistral': 5, 'Phi3': 5}
CASES = [
    *((INTERNVL, kind) for kind in held_by('internvl_hf')),
    *((LLAVA, kind) for kind in SPARE),
    *((CHAT, kind) for kind in held_by('internvl_official')),
]


@dataclass
class Exported:
    """An export of a training."""

    architecture: str
    kind: str
    model: VLM
    encoder: ChatEncoder
    path: Path

    @property
    def trust(self) -> bool:
        return self.architecture == CHAT


@pytest.fixture(scope='module', params=CASES, ids='-'.join)
def exported(request, tmp_path_factory):
    """The training's model and encoder, and what was written of them."""
    architecture, kind = request.param
    root = tmp_path_factory.mktemp(f'{kind}-no')  # LMDeploy takes a chat template of its own by a path, such as llama2
    if architecture == LLAVA:
        encoder, config = llava_encoder(kind), llava_config(kind, spare=SPARE[kind])
        base = make_base(root / 'base', config, 'native')
    else:
        encoder, config = make_encoder(kind), model_config(kind)
        base = make_base(root / 'base', config, encoder=encoder)
    layout, options = ('official', {}) if architecture == CHAT else ('hf', {'max_shard_size': '200KB'})
    if architecture == CHAT:
        for file in STAND_INS.glob('*.py'):
            shutil.copy(file, base)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dynamic_module_utils, 'HF_MODULES_CACHE', str(root / 'modules'))
        cfg = {'model': config, 'pretrained': str(base), 'tune': LORA}
        path, model = make_checkpoint(root / 'iter_1.pth', cfg, encoder)
        convert(cfg, path, root / 'out', layout, check='none', **options)
        yield Exported(architecture, kind, model, encoder, root / 'out')


def test_architecture(exported):
    from lmdeploy.archs import get_model_arch
    from lmdeploy.pytorch.models.module_map import MODULE_MAP
    from lmdeploy.turbomind.supported_models import SUPPORTED_ARCHS

    architecture, config = get_model_arch(str(exported.path), trust_remote_code=exported.trust)
    assert architecture == exported.architecture
    text = (config.llm_config if exported.trust else config.text_config).architectures
    # InternLM2's own class is OpenGVLab's; elsewhere its weights are written as Llama's.
    family = families()[exported.kind]
    assert text == [family.architecture if exported.trust else type(exported.model.llm.lm).__name__]
    if exported.architecture == LLAVA:
        assert {architecture, *text} <= MODULE_MAP.keys()
        assert config.pad_token_id == exported.encoder.image_token_id  # a picture's places; no text's token
    else:
        assert architecture in SUPPORTED_ARCHS
        # TurboMind has no Phi3 (and its own is_supported() does not see that); `--backend pytorch` serves it.
        assert (text[0] in SUPPORTED_ARCHS) is not bool(family.turbomind)


def test_preprocessing_gives_our_token_ids(exported):
    encoder, wide, tall = exported.encoder, picture(130, 60), picture(60, 65)
    history = [{'role': 'user', 'content': f'<image>\n{QUESTION}'}, ANSWER]
    question = [{'role': 'user', 'content': QUESTION}]
    if exported.kind != 'Mistral':  # whose template has no system message
        question = [{'role': 'system', 'content': 'Be brief.'}, *question]
    for messages, sample in (
        ([user(QUESTION, wide)], encoder.prompt(QUESTION, [wide])),
        ([user(QUESTION, wide, tall)], encoder.prompt(QUESTION, [wide, tall])),
        (
            [user(QUESTION, wide), ANSWER, user('And this?', tall)],
            encoder.prompt('<image>\nAnd this?', [wide, tall], history),
        ),
        (
            [user(QUESTION, wide), ANSWER, {'role': 'user', 'content': 'Why?'}],
            encoder.prompt('Why?', [wide], history),
        ),
        (question, encoder(question, add_generation_prompt=True)),
    ):
        same_prompt(exported.path, messages, sample, exported.trust)
    if exported.architecture != LLAVA:
        (item,) = preprocess(exported.path, [user(QUESTION, wide)], exported.trust)['multimodal']
        assert item['pixel_values'].shape[0] == encoder.image_processor.num_tiles(130, 60)


def test_weights_logits_and_greedy_answer(exported):
    served = Served(exported.path, exported.trust)
    assert served.never_written == []
    image = picture(56, 56)
    sample = exported.encoder.prompt(QUESTION, [image])
    same_answer(served, exported.path, [user(QUESTION, image)], exported.model, sample, 4)


def test_the_row_of_the_pad_token_is_read(tmp_path):
    """LMDeploy clears the pad token's row of the table, which may be that of a real token: the export names none."""
    encoder = llava_encoder('Qwen2')
    exclamation = encoder.tokenizer.convert_tokens_to_ids('!')
    config = llava_config('Qwen2', llm={'pad_token_id': exclamation})
    cfg = {'model': config, 'pretrained': str(make_base(tmp_path / 'base', config, 'native')), 'tune': LORA}
    path, model = make_checkpoint(tmp_path / 'iter_1.pth', cfg, encoder)
    convert(cfg, path, tmp_path / 'out', check='none')
    same_answer(Served(tmp_path / 'out'), tmp_path / 'out', [user('Hi!!')], model, encoder.prompt('Hi!!', []))
