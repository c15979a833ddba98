"""What an export must pass before it gets its name.

``full``: the written directory, loaded again, gives the logits and the greedy answer of the training model. That model
is rebuilt from base and checkpoint by the very code that trained it, adapters unmerged; peft then merges them, an
implementation of its own, and the weights are rounded to the export's dtype, as every export in 16 bits must.

``weights``: every tensor of the written directory, read back through its layout, is bit by bit the base's or the merged
one; in the memory of one tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mmft.checkpoint.layouts import Step
from mmft.checkpoint.load import build_pretrained, load, read_layout
from mmft.checkpoint.source import TensorDirectory
from mmft.errors import CheckpointError
from mmft.export.sources import Base, TrainingCheckpoint, plain_tune
from mmft.export.stored import stored_directory
from mmft.export.weights import WeightsExport, run_in_threads
from mmft.models.tuning import apply_tune
from mmft.models.vlm import VLM
from mmft.registry import MODELS
from mmft.structures import Sample

if TYPE_CHECKING:
    from mmft.data.encoder import ChatEncoder

__all__ = ['CHECKS', 'check_full', 'check_weights', 'choose_check']

CHECKS = ('full', 'weights', 'none')
_TOLERANCE = 1e-4
"""Of logits, relative to the largest. float32 sums in another order stay below 1e-5; a 16-bit weight that rounds the
other way because of that moves logits by some 1e-5 more."""

_NEW_TOKENS = 8


def choose_check(check: str, parameters: int) -> str:
    """``auto`` is ``full`` where two float32 copies of the model fit into free memory, else ``weights``."""
    if check != 'auto':
        return check
    import psutil

    return 'full' if 2 * 4 * parameters < 0.8 * psutil.virtual_memory().available else 'weights'


def check_weights(directory: Path, export: WeightsExport) -> int:
    """Compare every written tensor with what it must be.

    Returns:
        The number of tensors.

    Raises:
        CheckpointError: names the tensors that differ.
    """
    stored = stored_directory(TensorDirectory(directory))
    bad = [
        name
        for name, kind in export.tensors.items()
        if name not in stored or (stored[name].dtype, stored[name].shape) != kind
    ]
    bad += sorted(set(stored) - set(export.tensors))
    seen: set[str] = set()

    def compare(step: Step) -> None:
        for name, value in step(lambda key: stored[key].read()).items():
            seen.add(name)
            if not torch.equal(value, export.get(name).to(value.dtype)):
                bad.append(name)

    run_in_threads(compare, [] if bad else read_layout(directory).to_ours(stored))
    bad += sorted(set(export.shapes) - seen - set(export.source))
    if bad:
        raise _failed(f'{len(bad)} written tensors are not the trained ones, such as {bad[:4]}')
    return len(seen)


def _failed(what: str) -> CheckpointError:
    return CheckpointError(
        f'the export failed its check: {what}',
        expected='the training model, to the last tensor',
        fix='nothing was written to the output path; run again, and report it if it happens twice',
    )


def rebuild(
    model_config: Mapping[str, Any],
    base: Base | None,
    checkpoint: TrainingCheckpoint | None,
    encoder: ChatEncoder | None,
) -> VLM:
    """The training model in float32, adapters beside their weights, in eval mode."""
    if base is not None:
        model, _ = build_pretrained(base.path, model_config, dtype='float32')
    else:
        model = MODELS.build(dict(model_config)).float()
    if checkpoint is not None:
        apply_tune(model, plain_tune(checkpoint.meta['tune']))
        own = dict(model.named_parameters())
        with torch.no_grad():
            for name, stored in checkpoint.state.items():
                own[name].copy_(stored.read())
    if encoder is not None:
        model.image_token_id = encoder.image_token_id
    elif model.image_token_id is None:
        # No tokenizer says which it is; any id will do for a comparison of two models.
        model.image_token_id = model.llm.vocab_size - 1
    return model.eval()


@torch.no_grad()
def merge_in_place(model: VLM, dtype_of: Callable[[str], torch.dtype]) -> None:
    """Let peft merge the adapters, then round every weight to the dtype it is exported in (still held as float32)."""
    for module in model.modules():
        if hasattr(module, 'lora_A') and hasattr(module, 'merge'):
            module.merge()
    for name, parameter in model.named_parameters():
        if '.lora_' not in name:
            parameter.copy_(parameter.to(dtype_of(name.replace('.base_layer.', '.'))))


def question(model: VLM, encoder: ChatEncoder | None) -> Sample:
    """A picture of colour gradients and a question about it; without an encoder, random ids around one tile's slots."""
    if encoder is not None and encoder.image_processor is not None:
        from PIL import Image

        side = encoder.image_processor.to_dict().get('tile_size', model.vision.image_size)
        ramp = Image.linear_gradient('L').resize((side, side))
        picture = Image.merge('RGB', (ramp, ramp.rotate(90), ramp.rotate(180)))
        return encoder.prompt('What is in this picture? 这是什么？', [picture])
    if encoder is not None:
        return encoder.prompt('What is this? 这是什么？')
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1, model.llm.vocab_size - 1, (24,), generator=generator)
    side = model.vision.image_size
    ids[ids == model.image_token_id] = 0
    ids = torch.cat([ids[:4], torch.full((model.tokens_per_tile,), model.image_token_id), ids[4:]])
    pixels = torch.randint(0, 256, (1, 3, side, side), generator=generator, dtype=torch.uint8)
    return Sample(ids, torch.full_like(ids, -100), pixels)


@torch.no_grad()
def answer(model: VLM, sample: Sample) -> tuple[Tensor, list[int], list[float]]:
    """Logits (L,V) of the question, greedy ids of the answer, and at each of them how far the second choice was."""
    pixels = sample.pixel_values
    logits = model(sample.input_ids[None], pixel_values=pixels, mode='tensor')[0]
    made = model.generate(
        sample.input_ids[None],
        pixels,
        max_new_tokens=_NEW_TOKENS,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
        output_scores=True,
        return_dict_in_generate=True,
    )
    best = torch.stack(made.scores).float()[:, 0].topk(2).values
    return logits.float(), made.sequences[0].tolist(), (best[:, 0] - best[:, 1]).tolist()


def check_full(
    directory: Path,
    model_config: Mapping[str, Any],
    base: Base | None,
    checkpoint: TrainingCheckpoint | None,
    encoder: ChatEncoder | None,
    export: WeightsExport,
) -> dict[str, float]:
    """Compare the written directory with the training model.

    Returns:
        ``difference``: largest difference of logits to the training model rounded to the export's dtype, relative to
        the largest logit; ``rounding``: to the training model as it is; ``agreement``: share of positions where the
        most likely token is the training model's.

    Raises:
        CheckpointError: another model came out.
    """
    model = rebuild(model_config, base, checkpoint, encoder)
    sample = question(model, encoder)
    with torch.no_grad():
        trained = model(sample.input_ids[None], pixel_values=sample.pixel_values, mode='tensor')[0]
    merge_in_place(model, export.target_dtype)
    expected, ids, margins = answer(model, sample)
    image_token_id = model.image_token_id
    del model
    written, read_encoder = load(directory, dtype='float32')
    _check_encoder(written, encoder, read_encoder)
    written.image_token_id = image_token_id
    logits, got, _ = answer(written, sample)
    scale = float(expected.abs().max())
    report = {
        'difference': float((logits - expected).abs().max()) / scale,
        'rounding': float((logits - trained).abs().max()) / scale,
        'agreement': float((logits.argmax(-1) == trained.argmax(-1)).float().mean()),
    }
    if not report['difference'] <= _TOLERANCE:
        raise _failed(f'logits differ by {report["difference"]:.2e} of the largest, {_TOLERANCE:.0e} is allowed')
    first = next((i for i, (a, b) in enumerate(zip(ids, got, strict=True)) if a != b), None)
    if first is not None and margins[first] > 2 * _TOLERANCE * scale:
        raise _failed(f'the greedy answer is {got}, the training model gives {ids}')
    return report


def _check_encoder(model: VLM, encoder: ChatEncoder | None, read: ChatEncoder | None) -> None:
    if (encoder is None) != (read is None):
        raise _failed(f'the encoder is {"missing" if read is None else "there, but training had none"}')
    if encoder is None:
        return
    settings, again = ({k: v for k, v in e.to_dict().items() if k != 'tokenizer'} for e in (encoder, read))
    if again != settings:
        raise _failed(f'the encoder that was read back has the settings {again}, training had {settings}')
    if not torch.equal(question(model, read).input_ids, question(model, encoder).input_ids):
        raise _failed('the encoder that was read back gives other token ids')
