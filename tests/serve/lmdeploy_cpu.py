"""LMDeploy's PyTorch engine on the CPU, for tests: its own model classes, weight loader and preprocessing.

LMDeploy 0.18 refuses ``device_type='cpu'``, but its modules are plain torch around a backend that supplies the kernels.
This one supplies paged attention in torch and takes LMDeploy's own defaults for the rest. What it cannot show: the real
scheduler, sampler, kernels and 16-bit numerics.
"""

from __future__ import annotations

import asyncio
import base64
import io
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

# LMDeploy compiles some functions at import; on a CPU that costs minutes and proves nothing.
os.environ.setdefault('TORCHDYNAMO_DISABLE', '1')

import lmdeploy.pytorch.backends.selector as selector
import torch
import torch.nn.functional as F
from lmdeploy.model import get_chat_template
from lmdeploy.pytorch.backends.attention import AttentionImpl, AttentionMetadata, PagedAttentionBuildSpec
from lmdeploy.pytorch.backends.default.op_backend import DefaultOpsBackend
from lmdeploy.pytorch.config import CacheConfig, ModelConfig
from lmdeploy.pytorch.model_inputs import BuildModelContext, ModelInputs, VisionModelInputs, step_ctx_manager
from lmdeploy.pytorch.models.patch import build_patched_model
from lmdeploy.pytorch.weight_loader.model_weight_loader import load_model_weights
from lmdeploy.serve.processors import MultimodalProcessor
from lmdeploy.tokenizer import Tokenizer
from lmdeploy.vl.engine import ImageEncoder
from lmdeploy.vl.model.builder import load_vl_model
from PIL import Image
from torch import Tensor

from mmft.export.gate import logits_of
from mmft.models import VLM
from mmft.structures import Sample

__all__ = ['Served', 'preprocess', 'same_answer', 'same_prompt', 'user']

BLOCK, BLOCKS = 64, 64


class PagedAttention(AttentionImpl[AttentionMetadata]):
    """Attention over a cache of blocks, one sequence after the other."""

    def forward(self, query: Tensor, key: Tensor, value: Tensor, k_cache: Tensor, v_cache: Tensor,
                attn_metadata: AttentionMetadata, **_: Any) -> Tensor:  # fmt: skip
        out = query.new_empty((*query.shape[:-1], self.v_head_size))
        start = 0
        for blocks, q_len, kv_len in zip(
            attn_metadata.block_offsets,
            attn_metadata.q_seqlens.tolist(),
            attn_metadata.kv_seqlens.tolist(),
            strict=True,
        ):
            rows = slice(start, start + q_len)
            every, new = torch.arange(kv_len), torch.arange(kv_len - q_len, kv_len)
            place, offset = blocks.long()[every // BLOCK], every % BLOCK
            k_cache[place[new], offset[new]], v_cache[place[new], offset[new]] = key[rows], value[rows]
            q = query[rows].transpose(0, 1)
            k, v = (cache[place, offset].transpose(0, 1) for cache in (k_cache, v_cache))
            k, v = (t.repeat_interleave(q.shape[0] // t.shape[0], 0) for t in (k, v))
            mask = every[None] <= new[:, None]
            window = self.sliding_window[0] if isinstance(self.sliding_window, tuple) else self.sliding_window or -1
            if window > 0:
                mask &= every[None] > new[:, None] - window
            out[rows] = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=self.scale).transpose(0, 1)
            start += q_len
        return out


class CpuBackend(DefaultOpsBackend):
    """LMDeploy's default operators, and the attention above."""

    @staticmethod
    def get_name() -> str:
        return 'cpu'

    @classmethod
    def build_op(cls, spec: Any, *, enable_deterministic: bool = False) -> Any:
        if not isinstance(spec, PagedAttentionBuildSpec):
            return super().build_op(spec, enable_deterministic=enable_deterministic)
        return PagedAttention(
            num_heads=spec.num_heads, head_size=spec.head_dim, scale=spec.scale, num_kv_heads=spec.num_kv_heads,
            v_head_size=spec.v_head_dim, alibi=spec.alibi, sliding_window=spec.sliding_window,
            logit_softcapping=spec.logit_softcapping, causal=spec.causal,
        )  # fmt: skip

    @staticmethod
    def get_attention_metadata_cls() -> type:
        return AttentionMetadata

    @classmethod
    def update_step_context(cls, context: Any) -> Any:
        context.attn_metadata = AttentionMetadata(
            is_decoding=context.is_decoding, block_offsets=context.block_offsets, q_start_loc=context.q_start_loc,
            q_seqlens=context.q_seqlens, kv_seqlens=context.kv_seqlens,
        )  # fmt: skip
        return context

    @staticmethod
    def ccl_backend() -> str:
        return 'gloo'


class Served:
    """A model directory in LMDeploy's model class, filled by LMDeploy's weight loader.

    Args:
        trust: run the Python files in the directory, as ``--trust-remote-code`` does.

    Attributes:
        never_written: parameters that the loader left as they were (they were filled with NaN before).
    """

    def __init__(self, path: Path, trust: bool = False) -> None:
        # In place of the choice by device name; this process serves nothing else.
        selector._get_backend = lambda: CpuBackend
        self.config = ModelConfig.from_pretrained(
            str(path), trust_remote_code=trust, dtype='float32', device_type='cpu'
        )
        context = BuildModelContext(
            quant_config=self.config.quant_config, fp32_lm_head=self.config.fp32_lm_head,
            tie_word_embeddings=self.config.tie_word_embeddings, max_batch_size=1,
        )  # fmt: skip
        self.model = build_patched_model(self.config, device=torch.device('cpu'), build_model_ctx=context)
        for parameter in self.model.parameters():
            parameter.data.fill_(float('nan'))
        load_model_weights(self.model, str(path), device=torch.device('cpu'))
        self.never_written = [name for name, p in self.model.named_parameters() if p.isnan().any()]
        self._cache = CacheConfig(
            max_batches=1, block_size=BLOCK, num_cpu_blocks=0, num_gpu_blocks=BLOCKS, device_type='cpu'
        )
        self.trust, self._one = trust, self.room()

    def room(self) -> list[list[Tensor]]:
        """An empty cache for one conversation: keys and values of each layer."""
        shape = (BLOCKS, BLOCK, self.config.num_key_value_heads, self.config.k_head_dim)
        return [[torch.zeros(shape), torch.zeros(shape)] for _ in range(self.config.num_layers)]

    def take_in(self, prompt: Mapping[str, Any]) -> tuple[list[int], Any]:
        """Ids and pictures of a prompt from LMDeploy's preprocessing, as the model takes them; pictures in float32."""
        ids, pictures = list(prompt['input_ids']), None
        if prompt.get('multimodal'):
            pictured = [{**item, 'pixel_values': item['pixel_values'].float()} for item in prompt['multimodal']]
            made = self.model.get_input_processor().preprocess_input(ids, pictured)
            ids, pictures = list(made.input_ids), made.input_multimodals
        return ids, pictures

    @torch.inference_mode()
    def step(
        self, ids: list[int], history: int = 0, pictures: Any = None, room: list[list[Tensor]] | None = None
    ) -> Tensor:
        """Logits (L,V) of new tokens after ``history`` cached ones."""
        room = self._one if room is None else room
        pictures = (
            VisionModelInputs(history_lengths=torch.tensor([history]), input_multimodals=[pictures])
            if pictures
            else None
        )
        inputs = ModelInputs(
            input_ids=torch.tensor([ids]), seq_length=torch.tensor([len(ids)]), history_lengths=torch.tensor([history]),
            block_offsets=torch.arange(BLOCKS, dtype=torch.int32)[None], is_decoding=history > 0,
            num_ignored_history=torch.zeros(1, dtype=torch.long), max_q_seqlen=len(ids),
            max_kv_seqlen=len(ids) + history, sum_kv_seqlen=len(ids) + history, vision_inputs=pictures,
        )  # fmt: skip
        with step_ctx_manager(self.model.ctx_mgr):
            context = self.model.ctx_mgr.build_context(inputs, self.config, self._cache, room)
            with self.model.ctx_mgr.context(context):
                arguments = self.model.prepare_inputs_for_generation(past_key_values=room, context=context)
                hidden = self.model(**arguments)
        return self.model.get_logits(hidden)[0]

    def answer(self, prompt: dict[str, Any], count: int) -> tuple[Tensor, list[int]]:
        """Logits (L,V) of a prompt from ``preprocess``, and ``count`` greedy ids."""
        ids, pictures = self.take_in(prompt)
        first = logits = self.step(ids, 0, pictures)
        answer: list[int] = []
        for _ in range(count):
            answer.append(int(logits[-1].argmax()))
            logits = self.step(answer[-1:], len(ids) + len(answer) - 1)
        return first, answer


def url(image: Image.Image) -> dict[str, Any]:
    """A picture as OpenAI clients send it; PNG keeps every pixel."""
    data = io.BytesIO()
    image.save(data, 'PNG')
    text = base64.b64encode(data.getvalue()).decode()
    return {'type': 'image_url', 'image_url': {'url': f'data:image/png;base64,{text}'}}


def user(text: str, *images: Image.Image) -> dict[str, Any]:
    """A question, its pictures in front."""
    return {'role': 'user', 'content': [*map(url, images), {'type': 'text', 'text': text}]}


def preprocess(path: Path, messages: list[dict[str, Any]], trust: bool = False) -> dict[str, Any]:
    """LMDeploy's own way from OpenAI messages to ``input_ids`` and tiles, the chat template found by itself."""
    vision = ImageEncoder.__new__(ImageEncoder)  # its __init__ asks for a GPU
    vision.model = load_vl_model(str(path), backend='pytorch', trust_remote_code=trust)
    vision.executor, vision.max_batch_size = ThreadPoolExecutor(1), 1
    vision._uses_new_preprocess = ImageEncoder._is_new_preprocess_api(vision.model)
    processor = MultimodalProcessor(
        Tokenizer(str(path), trust),
        get_chat_template(str(path), trust_remote_code=trust),
        vl_encoder=vision,
        backend='pytorch',
    )
    return asyncio.run(processor.get_prompt_input(messages, do_preprocess=True))


def same_prompt(path: Path, messages: list[dict[str, Any]], sample: Sample, trust: bool = False) -> None:
    """Check that LMDeploy's preprocessing gives a prompt of ``ChatEncoder``: the token ids, and as many tiles."""
    got = preprocess(path, messages, trust)
    assert list(got['input_ids']) == sample.input_ids.tolist()
    tiles = sum(len(item['pixel_values']) for item in got.get('multimodal') or ())
    assert tiles == (0 if sample.pixel_values is None else len(sample.pixel_values))


def same_answer(
    served: Served, path: Path, messages: list[dict[str, Any]], model: VLM, sample: Sample, count: int = 1
) -> None:
    """Check that LMDeploy's model gives every logit as ours does, within 1e-5, and the same greedy answer.

    Taught models (``served.py``) have logits of hundreds, which float32 cannot hold so exactly: there 2e-6 of the
    largest. Pictures must be as large as a tile: then nothing is resized, and there is no difference of pixels.
    """
    got, answer = served.answer(preprocess(path, messages, served.trust), count)
    want = logits_of(model, sample)
    most = max(1e-5, 2e-6 * float(want.abs().max()))
    torch.testing.assert_close(got[:, : want.shape[1]], want, atol=most, rtol=0)
    stop = {'do_sample': False, 'eos_token_id': None, 'pad_token_id': 0}
    wanted = model.generate(sample.input_ids[None], sample.pixel_values, max_new_tokens=count, **stop)
    assert answer == wanted[0].tolist()
