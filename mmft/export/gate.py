"""What an export must pass before it gets its name.

``full``: the written directory, loaded again, gives the logits and the greedy answer of the training model. That model
is rebuilt from base and checkpoint by the code that trained it, adapters unmerged; peft then merges them, an
implementation of its own, and the weights are rounded to the export's dtype, as every export in 16 bits must.

``weights``: every tensor of the written directory, read back through its layout, is bit by bit the base's or the merged
one; in the memory of one tensor.

Of an adapter directory ``weights`` compares tensors, and their shapes with those of transformers' own model; ``full``
lets peft load it over that model with the base's weights.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mmft.checkpoint.load import build_opened, load, read_layout
from mmft.errors import CheckpointError
from mmft.export.adapter import AdapterExport
from mmft.export.inputs import plain_tune
from mmft.export.lazy_tensors import stored_tensors
from mmft.export.training import Training
from mmft.export.weights import WeightsExport, run_in_threads
from mmft.files.tensors import TensorDirectory
from mmft.layouts import Step
from mmft.machine import available_memory
from mmft.models.buffers import tensors_of
from mmft.models.lora import is_lora_key, load_adapter
from mmft.models.tuning import apply_tune
from mmft.models.vlm import VLM
from mmft.registry import MODELS
from mmft.structures import Sample
from mmft.words import count_of

if TYPE_CHECKING:
    from mmft.data.encoder import ChatEncoder

__all__ = ['CHECKS', 'check_adapter', 'check_full', 'check_weights', 'choose_check']

CHECKS = ('full', 'weights', 'none')
_TOLERANCE = 1e-4
"""Of logits, relative to the largest. float32 sums in another order stay below 1e-5; a 16-bit weight that rounds the
other way because of that moves logits by some 1e-5 more."""

_NEW_TOKENS = 8


def choose_check(check: str, parameters: int) -> str:
    """``auto`` is ``full`` where two float32 copies of the model fit into free memory, else ``weights``."""
    if check != 'auto':
        return check
    return 'full' if 2 * 4 * parameters < 0.8 * available_memory() else 'weights'


def check_weights(directory: Path, export: WeightsExport) -> int:
    """Compare every written tensor with its expected value.

    Returns:
        The number of tensors.

    Raises:
        CheckpointError: names the tensors that differ.
    """
    stored = stored_tensors(TensorDirectory(directory))
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
        raise _failed(f'{count_of(len(bad), "written tensor")} different from the trained, such as {bad[:4]}')
    return len(seen)


def _failed(what: str) -> CheckpointError:
    return CheckpointError(
        f'the export failed its check: {what}',
        expected='the training model, to the last tensor',
        fix='nothing was written to the output path; run again, and report it if it happens twice',
    )


def rebuild(source: Training) -> VLM:
    """The training model in float32, adapters beside their weights, in eval mode."""
    base, checkpoint, encoder = source.base, source.checkpoint, source.encoder
    if base is not None:
        model, _ = build_opened(base.opened, source.base_config, dtype='float32')
        model.llm.add_rows(source.model.llm.vocab_size)
    else:
        model = MODELS.build(dict(source.model_config)).float()
    if checkpoint is not None:
        apply_tune(model, plain_tune(checkpoint.meta['tune']))
        own = {name.replace('.base_layer.', '.'): tensor for name, tensor in tensors_of(model).items()}
        with torch.no_grad():
            for name, stored in checkpoint.state.items():
                own[name].copy_(stored.read())
    model.take_image_token(encoder)
    if model.image_token_id is None:
        # No tokenizer says which it is; any id will do for a comparison of two models.
        model.image_token_id = model.llm.vocab_size - 1
    return model.eval()


@torch.no_grad()
def merge_adapters(model: VLM, export: WeightsExport) -> None:
    """Let peft merge the adapters, then round every weight as it is exported (still held as float32)."""
    for module in model.modules():
        if hasattr(module, 'lora_A') and hasattr(module, 'merge'):
            module.merge()
    for name, tensor in tensors_of(model).items():
        if '.lora_' not in name and tensor.is_floating_point():
            name = name.replace('.base_layer.', '.')
            factor = export.adjustment(name).factor
            tensor.copy_((tensor * factor).to(export.target_dtype(name)).float() / factor)


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
    pixels = torch.randint(0, 256, (1, 3, side, side), generator=generator, dtype=torch.uint8)
    one = {'image_sizes': [(side, side)], 'image_grids': [(0, 0)] if model.merge is not None else []}
    features = model.picture_tokens(pixels, **picture_places(one['image_sizes'], one['image_grids']))
    ids = torch.cat([ids[:4], torch.full((len(features),), model.image_token_id), ids[4:]])
    return Sample(ids, torch.full_like(ids, -100), pixels, **one)


def picture_places(sizes: list[tuple[int, int]], grids: list[tuple[int, int]]) -> dict[str, Tensor]:
    """``image_sizes`` and ``image_grids`` as a model with a merge takes them; nothing for others."""
    return {'image_sizes': torch.tensor(sizes), 'image_grids': torch.tensor(grids)} if grids else {}


@torch.no_grad()
def logits_of(model: VLM, sample: Sample) -> Tensor:
    """(L,V) in float32."""
    places = picture_places(sample.image_sizes, sample.image_grids)
    return model(sample.input_ids[None], pixel_values=sample.pixel_values, mode='tensor', **places)[0].float()


@torch.no_grad()
def answer(model: VLM, sample: Sample) -> tuple[Tensor, list[int], list[float]]:
    """Logits (L,V) of the question, greedy ids of the answer, and at each of them how far the second choice was."""
    logits = logits_of(model, sample)
    made = model.generate(
        sample.input_ids[None],
        sample.pixel_values,
        **picture_places(sample.image_sizes, sample.image_grids),
        max_new_tokens=_NEW_TOKENS,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
        output_scores=True,
        return_dict_in_generate=True,
    )
    best = torch.stack(made.scores).float()[:, 0].topk(2).values
    return logits, made.sequences[0].tolist(), (best[:, 0] - best[:, 1]).tolist()


def check_full(directory: Path, source: Training, export: WeightsExport) -> dict[str, float]:
    """Compare the written directory with the training model.

    Returns:
        ``difference``: largest difference of logits to the training model rounded to the export's dtype, relative to
        the largest logit; ``rounding``: to the training model as it is; ``agreement``: share of positions where the
        most likely token is the training model's.

    Raises:
        CheckpointError: another model came out.
    """
    encoder = source.encoder
    model = rebuild(source)
    sample = question(model, encoder)
    trained = logits_of(model, sample)
    merge_adapters(model, export)
    expected, ids, margins = answer(model, sample)
    image_token_id = model.image_token_id
    del model
    written, read_encoder = load(directory)
    _check_encoder(written, encoder, read_encoder)
    written.image_token_id = image_token_id
    logits_of(written, sample)  # as it is: it has to run in the dtype it was written in
    written.float()
    logits, got, _ = answer(written, sample)
    logits = logits[:, : expected.shape[1]]  # a layout may have more rows in its tables; none of them is a token
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


@torch.no_grad()
def check_adapter(directory: Path, source: Training, export: AdapterExport) -> dict[str, float]:
    """Compare transformers' own model with the base's weights and, through peft, the written adapter over them.

    Returns:
        ``difference``: largest difference of logits to the training model, relative to the largest logit.

    Raises:
        CheckpointError: another model came out.
    """
    model = rebuild(source)
    sample = question(model, source.encoder)
    for name, parameter in model.named_parameters():
        if is_lora_key(name) or (export.saved and name.startswith('projector.')):
            parameter.copy_(parameter.to(export.dtype or parameter.dtype))
    expected, token = logits_of(model, sample), model.image_token_id
    del model
    theirs = export.build()
    theirs.config.image_token_id = token
    missing, unexpected = theirs.load_state_dict(export.base_state(), strict=False)
    if unexpected or set(missing) - set(theirs._tied_weights_keys or ()):
        raise _failed(f'the base does not fit {export.layout.architecture}: {[*missing, *unexpected][:4]}')
    theirs = load_adapter(theirs, str(directory))
    inputs = {'input_ids': sample.input_ids[None], 'attention_mask': torch.ones_like(sample.input_ids)[None]}
    if sample.pixel_values is not None:
        inputs['pixel_values'] = source.model.data_preprocessor.normalize(sample.pixel_values)
    if sample.image_grids:
        inputs['image_sizes'] = torch.tensor([(height, width) for width, height in sample.image_sizes])
    logits = theirs(**inputs).logits[0, :, : expected.shape[1]]
    difference = float((logits - expected).abs().max() / expected.abs().max())
    if not difference <= _TOLERANCE:
        raise _failed(f'logits differ by {difference:.2e} of the largest, {_TOLERANCE:.0e} is allowed')
    return {'difference': difference}


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
