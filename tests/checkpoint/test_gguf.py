"""GGUF files as the language model of parts, and as a tokenizer: beside transformers' own reading of them."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
import torch
from mmengine.config import Config
from tokenizers.pre_tokenizers import ByteLevel
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

import mmft
from mmft.checkpoint import build_pretrained
from mmft.data import load_tokenizer
from mmft.engine import Runner
from mmft.errors import CheckpointError, ConfigError
from mmft.export import convert
from tests.engine.tiny import write_tiny

SPECIAL = ['<unk>', '<|im_start|>', '<|im_end|>', '<pad>']
TOKENS = [*SPECIAL, *sorted(ByteLevel.alphabet()), 'he', 'Ġt']
SIZES = {
    'vocab_size': len(TOKENS), 'hidden_size': 32, 'intermediate_size': 64, 'num_hidden_layers': 2,
    'num_attention_heads': 4, 'num_key_value_heads': 2, 'max_position_embeddings': 512, 'rms_norm_eps': 1e-5,
    'rope_theta': 5000.0, 'head_dim': 8, 'unk_token_id': 0, 'bos_token_id': 1, 'eos_token_id': 2, 'pad_token_id': 3,
}  # fmt: skip
LLM = {'type': 'Llama', **{key: value for key, value in SIZES.items() if key != 'unk_token_id'}}
CHAT = "{% for m in messages %}{{'<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n'}}{% endfor %}"


def permuted(weight, heads):
    """llama.cpp's order of the rows of q and k: pairs beside each other, where transformers has halves."""
    rows = weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
    return rows.swapaxes(1, 2).reshape(weight.shape)


NAMES = {
    'model.embed_tokens': 'token_embd', 'model.norm': 'output_norm', 'lm_head': 'output',
    'input_layernorm': 'attn_norm', 'post_attention_layernorm': 'ffn_norm', 'self_attn.q_proj': 'attn_q',
    'self_attn.k_proj': 'attn_k', 'self_attn.v_proj': 'attn_v', 'self_attn.o_proj': 'attn_output',
    'mlp.gate_proj': 'ffn_gate', 'mlp.up_proj': 'ffn_up', 'mlp.down_proj': 'ffn_down',
}  # fmt: skip


def write(path, quantised=None, architecture='llama', tied=False, more=()):
    """A random Llama as GGUF, in llama.cpp's names; its state dict."""
    torch.manual_seed(0)
    state = LlamaForCausalLM(LlamaConfig(**SIZES)).state_dict()
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(2)
    writer.add_context_length(512)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(64)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(5000.0)
    writer.add_rope_dimension_count(8)
    writer.add_vocab_size(len(TOKENS))
    writer.add_tokenizer_model('gpt2')
    writer.add_token_list(TOKENS)
    writer.add_token_types([3] * len(SPECIAL) + [1] * (len(TOKENS) - len(SPECIAL)))
    writer.add_token_merges(['h e', 'Ġ t'])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(3)
    writer.add_chat_template(CHAT)
    for name, tensor in state.items():
        if tied and name == 'lm_head.weight':
            continue
        stem = name.removesuffix('.weight')
        if stem.startswith('model.layers.'):
            _, _, number, stem = stem.split('.', 3)
            theirs = f'blk.{number}.{NAMES[stem]}.weight'
        else:
            theirs = f'{NAMES[stem]}.weight'
        value = tensor.numpy()
        if stem.endswith(('q_proj', 'k_proj')):
            value = permuted(value, 4 if stem.endswith('q_proj') else 2)
        if quantised is not None and value.ndim == 2:
            writer.add_tensor(theirs, gguf.quantize(np.ascontiguousarray(value), quantised), raw_dtype=quantised)
        else:
            writer.add_tensor(theirs, np.ascontiguousarray(value))
    for name in more:
        writer.add_tensor(name, np.ones(4, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return state


def model_config(llm=LLM):
    vision = {'type': 'CLIP', 'hidden_size': 16, 'num_hidden_layers': 2, 'num_attention_heads': 2,
              'intermediate_size': 32, 'image_size': 28, 'patch_size': 7}  # fmt: skip
    return {'type': 'VLM', 'vision': vision, 'projector': {'type': 'MLP'}, 'llm': llm}


def test_the_weights_that_were_written(tmp_path):
    want = write(tmp_path / 'm.gguf')
    model, _ = build_pretrained({'llm': str(tmp_path / 'm.gguf')}, model_config())
    own = model.llm.lm.state_dict()
    assert own.keys() == want.keys()
    assert all(torch.equal(own[name], value) for name, value in want.items())


@pytest.mark.parametrize('tied', [False, True])
@pytest.mark.parametrize('kind', [None, 'Q8_0', 'Q4_1', 'F16'])
def test_logits_and_ids_are_transformers_own(kind, tied, tmp_path):
    write(tmp_path / 'm.gguf', kind and gguf.GGMLQuantizationType[kind], tied=tied)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file='m.gguf', dtype=torch.float32).eval()
    model, _ = mmft.load({'llm': str(tmp_path / 'm.gguf')}, model=model_config({**LLM, 'tie_word_embeddings': tied}))
    tokenizer = load_tokenizer(tmp_path / 'm.gguf')
    other = AutoTokenizer.from_pretrained(tmp_path, gguf_file='m.gguf')
    text = '<|im_start|>user\nhello, 你好 the  end<|im_end|>\n'
    ids = tokenizer(text).input_ids
    assert ids == other(text).input_ids
    assert (ids[0], tokenizer.eos_token, tokenizer.pad_token) == (1, '<|im_end|>', '<pad>')
    assert tokenizer.decode(ids, skip_special_tokens=False) == text
    assert tokenizer.chat_template == CHAT
    with torch.no_grad():
        assert torch.equal(model(torch.tensor([ids]), mode='tensor'), theirs(torch.tensor([ids])).logits)


def test_a_config_whose_tokenizer_is_in_the_file(tmp_path):
    """Trained, exported and read: the tokenizer goes along, the frozen language model is the file's."""
    want = write(tmp_path / 'm.gguf')
    cfg = Config.fromfile(write_tiny(tmp_path / 'tiny'))
    cfg.model.llm = {**LLM, 'vocab_size': len(TOKENS)}
    cfg.pretrained = {'llm': str(tmp_path / 'm.gguf')}
    cfg.encoder.pop('tokenizer')
    cfg.encoder.update(template='chatml_newline', add_tokens=True)
    cfg.resize_embeddings = True
    cfg.tune = {'vision': 'full', 'projector': 'full', 'llm': {'type': 'lora', 'r': 2}}
    cfg.train_cfg, cfg.val_cfg, cfg.val_dataloader = {'max_iters': 1}, None, None
    cfg.optim_wrapper.update(dtype=None, accumulative_counts=1, paramwise_cfg=None)
    cfg.default_hooks.update(checkpoint={'interval': 1, 'by_epoch': False})
    cfg.work_dir = str(tmp_path / 'run')
    runner = Runner.from_cfg(cfg)
    runner.train()
    convert(cfg, tmp_path / 'run' / 'iter_1.pth', tmp_path / 'out', 'native', check='full')
    read, encoder = mmft.load(tmp_path / 'out')
    key = 'model.layers.0.input_layernorm.weight'
    assert torch.equal(read.llm.lm.state_dict()[key], want[key])
    text = '<|im_start|>user\nhello<|im_end|>\n'
    assert encoder.tokenizer(text).input_ids == load_tokenizer(tmp_path / 'm.gguf')(text).input_ids


def damaged(path, kind):
    write(path, architecture='mamba' if kind == 'unsupported' else 'llama',
          more=['rope_freqs.weight'] if kind == 'unknown tensor' else [])  # fmt: skip
    content = path.read_bytes()
    if kind == 'cut':
        path.write_bytes(content[: len(content) // 2])
    elif kind == 'head only':
        path.write_bytes(content[:24])
    elif kind == 'page':
        path.write_text('<html>not found</html>')
    elif kind == 'empty':
        path.write_bytes(b'')
    elif kind == 'absent':
        path.unlink()
    elif kind == 'version':
        path.write_bytes(content[:4] + b'\x63\0\0\0' + content[8:])
    elif kind == 'counts':
        path.write_bytes(content[:8] + b'\xff' * 16 + content[24:])
    elif kind == 'no architecture':
        path.write_bytes(content.replace(b'general.architecture', b'general.arkitecture'))
    elif kind == 'unknown architecture':
        path.write_bytes(content.replace(b'llama', b'zzzzz'))


KINDS = ['cut', 'head only', 'page', 'empty', 'absent', 'version', 'counts', 'no architecture', 'unknown architecture',
         'unsupported', 'unknown tensor']  # fmt: skip


@pytest.mark.parametrize('kind', KINDS)
def test_files_that_cannot_be_read(kind, tmp_path):
    damaged(tmp_path / 'm.gguf', kind)
    with pytest.raises(CheckpointError, match=r'm\.gguf'):
        build_pretrained({'llm': str(tmp_path / 'm.gguf')}, model_config())
    if kind not in ('cut', 'unsupported', 'unknown tensor'):
        with pytest.raises(CheckpointError, match=r'm\.gguf'):
            load_tokenizer(tmp_path / 'm.gguf')


def test_a_file_of_another_size_and_in_another_place(tmp_path):
    write(tmp_path / 'm.gguf')
    with pytest.raises(CheckpointError, match=r'\(64, 32\) in the weights, \(48, 32\) in the model'):
        build_pretrained({'llm': str(tmp_path / 'm.gguf')}, model_config({**LLM, 'intermediate_size': 48}))
    with pytest.raises(ConfigError, match='rope_theta'):
        build_pretrained({'llm': str(tmp_path / 'm.gguf')}, model_config({**LLM, 'rope_theta': 10000.0}))
    with pytest.raises(CheckpointError, match=r'm\.gguf is a file(?s:.*)pretrained=dict\(llm='):
        mmft.load(tmp_path / 'm.gguf')


def test_the_package_is_named_where_it_is_missing(tmp_path, monkeypatch):
    write(tmp_path / 'm.gguf')
    monkeypatch.setattr('importlib.util.find_spec', lambda name, *_: None)
    for read in (load_tokenizer, lambda path: build_pretrained({'llm': str(path)}, model_config())):
        with pytest.raises(ConfigError, match=r"pip install 'mmft\[gguf\]'"):
            read(tmp_path / 'm.gguf')
