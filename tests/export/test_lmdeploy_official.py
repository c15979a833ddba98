"""OpenGVLab's layout in LMDeploy 0.18, which runs the configuration files of the base (``--trust-remote-code``).

The files here are stand-ins of our own with the fields that LMDeploy reads; see ``tests/serve/internvl_remote``.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from transformers import dynamic_module_utils

from mmft.export import convert
from tests.export.tiny import LORA, logits, make_base, make_checkpoint, make_encoder, model_config, picture
from tests.serve.lmdeploy_cpu import Served, preprocess, user

QUESTION = 'What dish is it? 这是什么菜？'
STAND_INS = Path(__file__).parents[1] / 'serve' / 'internvl_remote'


@pytest.fixture(scope='module', params=['InternLM2', 'Qwen2', 'Phi3'])
def exported(request, tmp_path_factory):
    """(kind, training model, its encoder, export directory)."""
    root = tmp_path_factory.mktemp(request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dynamic_module_utils, 'HF_MODULES_CACHE', str(root / 'modules'))
        encoder, config = make_encoder(request.param), model_config(request.param)
        base = make_base(root / 'base', config, encoder=encoder)
        for file in STAND_INS.glob('*.py'):
            shutil.copy(file, base)
        cfg = {'model': config, 'pretrained': str(base), 'tune': LORA}
        path, model = make_checkpoint(root / 'iter_1.pth', cfg, encoder)
        convert(cfg, path, root / 'out', 'official', check='none')
        yield request.param, model, encoder, root / 'out'


def test_architecture(exported):
    from lmdeploy.archs import get_model_arch

    kind, model, _, out = exported
    architecture, config = get_model_arch(str(out), trust_remote_code=True)
    assert architecture == 'InternVLChatModel'
    names = {'InternLM2': 'InternLM2ForCausalLM'}
    assert config.llm_config.architectures == [names.get(kind, type(model.llm.lm).__name__)]


def test_preprocessing_gives_our_token_ids(exported):
    _, _, encoder, out = exported
    wide, tall = picture(130, 60), picture(60, 65)
    got = preprocess(out, [user(QUESTION, wide)], trust=True)
    assert list(got['input_ids']) == encoder.prompt(QUESTION, [wide]).input_ids.tolist()
    assert got['multimodal'][0]['pixel_values'].shape[0] == encoder.image_processor.num_tiles(130, 60)
    turns = [user(QUESTION, wide), {'role': 'assistant', 'content': 'Rice rolls.'}, user('And this?', tall)]
    history = [{'role': 'user', 'content': f'<image>\n{QUESTION}'}, turns[1]]
    want = encoder.prompt('<image>\nAnd this?', [wide, tall], history)
    assert list(preprocess(out, turns, trust=True)['input_ids']) == want.input_ids.tolist()


def test_weights_logits_and_greedy_answer(exported):
    kind, model, encoder, out = exported
    served = Served(out, trust=True)
    assert served.never_written == []
    image = picture(56, 56)
    got, answer = served.answer(preprocess(out, [user(QUESTION, image)], trust=True), 4)
    torch.testing.assert_close(got, logits(model, encoder, [image], QUESTION), atol=1e-4, rtol=1e-4)
    sample = encoder.prompt(QUESTION, [image])
    stop = {'do_sample': False, 'eos_token_id': None, 'pad_token_id': 0}
    want = model.generate(sample.input_ids[None], sample.pixel_values, max_new_tokens=4, **stop)
    assert answer == want[0].tolist(), kind
