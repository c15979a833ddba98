"""HF-native InternVL exports in LMDeploy 0.18: architecture, preprocessing, weight loader, forward."""

from __future__ import annotations

import pytest
import torch

from mmft.export import convert
from tests.export.tiny import LORA, logits, make_base, make_checkpoint, make_encoder, model_config, picture
from tests.serve.lmdeploy_cpu import Served, preprocess, user

QUESTION = 'What dish is it? 这是什么菜？'


@pytest.fixture(scope='module', params=['InternLM2', 'Qwen2', 'Phi3'])
def exported(request, tmp_path_factory):
    """(kind, training model, its encoder, export directory)."""
    root = tmp_path_factory.mktemp(request.param)
    encoder, config = make_encoder(request.param), model_config(request.param)
    cfg = {'model': config, 'pretrained': str(make_base(root / 'base', config, encoder=encoder)), 'tune': LORA}
    path, model = make_checkpoint(root / 'iter_1.pth', cfg, encoder)
    convert(cfg, path, root / 'out', check='none', max_shard_size='200KB')
    return request.param, model, encoder, root / 'out'


def test_architecture(exported):
    from lmdeploy.archs import get_model_arch
    from lmdeploy.turbomind.supported_models import SUPPORTED_ARCHS

    kind, _, _, out = exported
    architecture, config = get_model_arch(str(out))
    assert architecture == 'InternVLForConditionalGeneration'
    assert architecture in SUPPORTED_ARCHS
    # TurboMind has no Phi3 (and its own is_supported() does not see that); `--backend pytorch` serves it.
    assert (config.text_config.architectures[0] in SUPPORTED_ARCHS) is (kind != 'Phi3')


def test_preprocessing_gives_our_token_ids(exported):
    _, _, encoder, out = exported
    wide, tall = picture(130, 60), picture(60, 65)
    got = preprocess(out, [user(QUESTION, wide)])
    assert list(got['input_ids']) == encoder.prompt(QUESTION, [wide]).input_ids.tolist()
    assert got['multimodal'][0]['pixel_values'].shape[0] == encoder.image_processor.num_tiles(130, 60)
    got = preprocess(out, [user(QUESTION, wide, tall)])
    assert list(got['input_ids']) == encoder.prompt(QUESTION, [wide, tall]).input_ids.tolist()
    got = preprocess(
        out, [user(QUESTION, wide), {'role': 'assistant', 'content': 'Rice rolls.'}, user('And this?', tall)]
    )
    history = [{'role': 'user', 'content': f'<image>\n{QUESTION}'}, {'role': 'assistant', 'content': 'Rice rolls.'}]
    assert list(got['input_ids']) == encoder.prompt('<image>\nAnd this?', [wide, tall], history).input_ids.tolist()
    got = preprocess(out, [{'role': 'system', 'content': 'Be brief.'}, {'role': 'user', 'content': QUESTION}])
    messages = [{'role': 'system', 'content': 'Be brief.'}, {'role': 'user', 'content': QUESTION}]
    assert list(got['input_ids']) == encoder(messages, add_generation_prompt=True).input_ids.tolist()


def test_weights_logits_and_greedy_answer(exported):
    kind, model, encoder, out = exported
    served = Served(out)
    assert served.never_written == []
    # A picture of one tile's size: no resizing, so no difference of pixels, only of arithmetic.
    image = picture(56, 56)
    prompt = preprocess(out, [user(QUESTION, image)])
    got, answer = served.answer(prompt, 4)
    torch.testing.assert_close(got, logits(model, encoder, [image], QUESTION), atol=1e-4, rtol=1e-4)
    sample = encoder.prompt(QUESTION, [image])
    want = model.generate(
        sample.input_ids[None],
        sample.pixel_values,
        max_new_tokens=4,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    assert answer == want[0].tolist(), kind
