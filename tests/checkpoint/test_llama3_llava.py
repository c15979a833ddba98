"""LLaVAs on Llama 3 with the vocabularies that they are published with: XTuner's for transformers, and LLaVA-NeXT's."""

from __future__ import annotations

import json

import torch
from transformers import AutoTokenizer, CLIPVisionConfig, LlamaConfig, LlavaForConditionalGeneration

import mmft
from mmft.export import convert
from tests.checkpoint.test_llava_hf import TOWER, save
from tests.data.llama3 import LLAMA_3, write_llama3
from tests.export.tiny import logits, make_base, picture
from tests.export.tiny_llava import ANYRES, CLIP_MEAN, CLIP_STD, llava_config, llava_encoder

TEXT = dict(num_key_value_heads=2, intermediate_size=32, hidden_size=16, num_attention_heads=2, num_hidden_layers=3)


def theirs(path, messages):
    tokenizer = AutoTokenizer.from_pretrained(path)
    return tokenizer.apply_chat_template(messages, chat_template=LLAMA_3, add_generation_prompt=True)['input_ids']


def test_xtuners_for_transformers(tmp_path):
    """xtuner/llava-llama-3-8b-v1_1-transformers: the picture's token and the pad token follow Llama 3's in a table that
    is rounded up; there is no system message."""
    write_llama3(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    image, pad = tokenizer.convert_tokens_to_ids(['<image>', '<pad>'])
    text = LlamaConfig(vocab_size=len(tokenizer) + 9, bos_token_id=tokenizer.bos_token_id, eos_token_id=pad - 1, **TEXT)
    vision = CLIPVisionConfig(intermediate_size=32, **TOWER)
    numbers = {'image_token_index': image, 'pad_token_id': pad}
    original = save(LlavaForConditionalGeneration, tmp_path, vision, text, **numbers)
    processor = {'image_processor_type': 'CLIPImageProcessor', 'size': {'shortest_edge': 28}, 'crop_size': 28}
    (tmp_path / 'preprocessor_config.json').write_text(json.dumps(processor))
    model, encoder = mmft.load(tmp_path)
    assert model.image_token_id == encoder.image_token_id == image
    assert encoder.template.name == 'llama3'
    sample = encoder([{'role': 'user', 'content': '<image>\nWhat is it?'}], [picture()], add_generation_prompt=True)
    ids = sample.input_ids.tolist()
    want = theirs(tmp_path, [{'role': 'user', 'content': '<image>\nWhat is it?'}])
    at = want.index(image)
    assert ids == [*want[:at], *[image] * 16, *want[at + 1 :]]
    rows, mean, std = sample.input_ids[None], *(torch.tensor(three)[:, None, None] for three in (CLIP_MEAN, CLIP_STD))
    with torch.no_grad():
        got = model(rows, pixel_values=sample.pixel_values, mode='tensor')
        want = original(rows, pixel_values=(sample.pixel_values / 255 - mean) / std).logits
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)


def test_llava_nexts_own(tmp_path):
    """lmms-lab/llama3-llava-next-8b: Llama 3's tokenizer as it is, a table of as many rows, and a system message."""
    plain = tmp_path / 'plain'
    plain.mkdir()
    write_llama3(plain)
    content = json.loads((plain / 'tokenizer.json').read_text())
    content['added_tokens'] = [token for token in content['added_tokens'] if token['content'][:2] == '<|']
    numbers = json.loads((plain / 'tokenizer_config.json').read_text())
    numbers.pop('pad_token')
    rows = max(token['id'] for token in content['added_tokens']) + 1
    config = llava_config('Llama', llm={'vocab_size': rows}, merge={'type': 'AnyResMerge'})
    path = make_base(tmp_path / 'llava', config, 'official', encoder=llava_encoder('Llama', ANYRES))
    for file in ('encoder.json', 'chat_template.jinja'):
        (path / file).unlink()
    (path / 'tokenizer.json').write_text(json.dumps(content))
    (path / 'tokenizer_config.json').write_text(json.dumps(numbers))
    model, encoder = mmft.load(path)
    assert model.llm.vocab_size == rows
    assert model.image_token_id == encoder.image_token_id == rows  # one beyond the table: no text is this token
    assert encoder.template.name == 'llava_llama_3'
    system = {'role': 'system', 'content': encoder.template.system_message}
    sample = encoder([{'role': 'user', 'content': '<image>\nWhat is it?'}], [picture()], add_generation_prompt=True)
    want = theirs(path, [system, {'role': 'user', 'content': '<image>\nWhat is it?'}])
    text = encoder.tokenizer.convert_tokens_to_ids(list('<image>'))
    at = next(i for i in range(len(want)) if want[i : i + len(text)] == text)
    ids = sample.input_ids.tolist()
    assert [*dict.fromkeys(ids[at : at + sum(sample.num_slots)])] == [rows]
    assert [*ids[:at], *ids[at + sum(sample.num_slots) :]] == [*want[:at], *want[at + len(text) :]]
    out = convert({'pretrained': str(path)}, None, tmp_path / 'hf', check='full').path
    read, again = mmft.load(out)
    got, want = (logits(one, other, [picture()])[:, :rows] for one, other in ((read, again), (model, encoder)))
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)
