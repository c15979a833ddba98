"""HF-native LLaVA exports in LMDeploy 0.18: architecture, preprocessing, weight loader, forward."""

from __future__ import annotations

import pytest
import torch

from mmft.export import convert
from tests.export.tiny import LORA, logits, make_base, make_checkpoint, picture
from tests.export.tiny_llava import llava_config, llava_encoder
from tests.serve.lmdeploy_cpu import Served, preprocess, user

QUESTION = 'What dish is it? 这是什么菜？'
ANSWER = {'role': 'assistant', 'content': 'Rice rolls.'}
# Llama's placeholder lies beyond the base's table, as Vicuna's does; Qwen2's head is tied to its embedding.
KINDS = {'Llama': -1, 'Qwen2': 5, 'Mistral': 5, 'Phi3': 5}


@pytest.fixture(scope='module', params=KINDS)
def exported(request, tmp_path_factory):
    """(kind, training model, its encoder, export directory)."""
    root, kind = tmp_path_factory.mktemp(request.param), request.param
    encoder, config = llava_encoder(kind), llava_config(kind, spare=KINDS[kind])
    cfg = {'model': config, 'pretrained': str(make_base(root / 'base', config, 'native')), 'tune': LORA}
    path, model = make_checkpoint(root / 'iter_1.pth', cfg, encoder)
    convert(cfg, path, root / 'out', check='none', max_shard_size='200KB')
    return kind, model, encoder, root / 'out'


def test_architecture(exported):
    from lmdeploy.archs import get_model_arch
    from lmdeploy.pytorch.models.module_map import MODULE_MAP

    _, model, encoder, out = exported
    architecture, config = get_model_arch(str(out))
    assert architecture == 'LlavaForConditionalGeneration'
    assert {architecture, config.text_config.architectures[0]} <= MODULE_MAP.keys()
    assert config.text_config.architectures == [type(model.llm.lm).__name__]
    assert config.pad_token_id == encoder.image_token_id  # a picture's places; no text's token


def test_preprocessing_gives_our_token_ids(exported):
    kind, _, encoder, out = exported
    wide, tall = picture(130, 60), picture(60, 65)

    def same(messages, sample):
        assert list(preprocess(out, messages)['input_ids']) == sample.input_ids.tolist()

    same([user(QUESTION, wide)], encoder.prompt(QUESTION, [wide]))
    same([user(QUESTION, wide, tall)], encoder.prompt(QUESTION, [wide, tall]))
    history = [{'role': 'user', 'content': f'<image>\n{QUESTION}'}, ANSWER]
    same(
        [user(QUESTION, wide), ANSWER, user('And this?', tall)],
        encoder.prompt('<image>\nAnd this?', [wide, tall], history),
    )
    same([user(QUESTION, wide), ANSWER, {'role': 'user', 'content': 'Why?'}], encoder.prompt('Why?', [wide], history))
    question = [{'role': 'user', 'content': QUESTION}]
    if kind != 'Mistral':  # whose template has no system message
        question = [{'role': 'system', 'content': 'Be brief.'}, *question]
    same(question, encoder(question, add_generation_prompt=True))


def test_weights_logits_and_greedy_answer(exported):
    _, model, encoder, out = exported
    served = Served(out)
    assert served.never_written == []
    # A picture of one tile's size: no resizing, so no difference of pixels, only of arithmetic.
    image = picture(56, 56)
    got, answer = served.answer(preprocess(out, [user(QUESTION, image)]), 4)
    want = logits(model, encoder, [image], QUESTION)
    torch.testing.assert_close(got[:, : want.shape[1]], want, atol=1e-4, rtol=1e-4)
    sample = encoder.prompt(QUESTION, [image])
    stop = {'do_sample': False, 'eos_token_id': None, 'pad_token_id': 0}
    assert answer == model.generate(sample.input_ids[None], sample.pixel_values, max_new_tokens=4, **stop)[0].tolist()


def test_the_row_of_the_pad_token_is_read(tmp_path):
    """LMDeploy clears the pad token's row of the table, which may be that of a real token: the export names none."""
    encoder = llava_encoder('Qwen2')
    exclamation = encoder.tokenizer.convert_tokens_to_ids('!')
    config = llava_config('Qwen2', llm={'pad_token_id': exclamation})
    cfg = {'model': config, 'pretrained': str(make_base(tmp_path / 'base', config, 'native')), 'tune': LORA}
    path, model = make_checkpoint(tmp_path / 'iter_1.pth', cfg, encoder)
    convert(cfg, path, tmp_path / 'out', check='none')
    got, _ = Served(tmp_path / 'out').answer(preprocess(tmp_path / 'out', [user('Hi!!')]), 1)
    torch.testing.assert_close(got, logits(model, encoder, [], 'Hi!!'), atol=1e-4, rtol=1e-4)
