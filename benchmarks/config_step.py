"""A step of a config, weights random: seconds, tokens/s, MFU and memory, beside what --dry-run predicts.

    python benchmarks/config_step.py internvl2_2b_food_lora internvl2_2b_food_full --samples 2  # CUDA
    python benchmarks/config_step.py internvl2_tiny_food_lora --device cpu

The batch is the heaviest that the config allows: every picture gives the most tiles. MFU counts the multiplications
that the model's weights need (forward, and the gradients of what trains; no attention scores, no recomputation) over
the GPU's peak.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from typing import Any

PEAK_TFLOPS = {'H200': 989, 'H100': 989, 'A100': 312, 'A800': 312, '4090': 165, 'L40': 181, 'A10': 125}
"""Dense bf16, from the vendors' data sheets."""


def random_model(config: dict[str, Any], dtype: Any, device: str) -> Any:
    """The model on the device with random weights of a sane size: no file, no copy elsewhere."""
    import torch

    from mmft.checkpoint import build_meta

    model = build_meta(config).to(dtype).to_empty(device=device)
    for name, parameter in model.named_parameters():
        torch.nn.init.normal_(parameter, std=0.02)
        if 'norm' in name and name.endswith('weight'):
            torch.nn.init.ones_(parameter)
    for module in model.llm.lm.modules():
        if hasattr(module, 'original_inv_freq'):
            model.llm.lm._init_weights(module)
    normalizer = model.data_preprocessor
    normalizer.mean.copy_(torch.tensor(model.pixel_mean).view(1, -1, 1, 1))
    normalizer.std.copy_(torch.tensor(model.pixel_std).view(1, -1, 1, 1))
    return model


def flops(model: Any, tiles: int, tokens: int, trained: int) -> float:
    """Multiply-adds x 2 that a step needs."""
    patches = model.vision.num_patches(model.vision.image_size)
    vision = sum(p.numel() for p in model.vision.layers.parameters()) * patches
    blocks = sum(p.numel() for name, p in model.llm.layers.named_parameters() if 'lora' not in name)
    head = model.llm.vocab_size * model.llm.hidden_size
    deep = any(p.requires_grad and 'lora' not in n for n, p in model.llm.layers.named_parameters())
    vision_passes = 3 if any(p.requires_grad for p in model.vision.parameters()) else 1
    # Gradients of activations always flow through the language model (the projector trains); of weights if they train.
    return 2 * (vision * tiles * vision_passes + (blocks * tokens + head * trained) * (3 if deep else 2))


def run(name: str, options: argparse.Namespace) -> dict[str, float]:
    """Steps of one config."""
    import torch

    from mmft.cli.configs import load_config
    from mmft.data.pictures.tilers import ImageProcessor
    from mmft.engine.build import plain_dict
    from mmft.engine.optim import build_optim_wrapper
    from mmft.engine.planning.dry_run import make_plan
    from mmft.models.tuning import apply_tune
    from mmft.registry import IMAGE_PROCESSORS

    cfg = load_config(name, options.cfg_options)
    device, cuda = options.device, options.device.startswith('cuda')
    wait = torch.cuda.synchronize if cuda else lambda: None
    model = random_model(plain_dict(cfg.model), getattr(torch, cfg.dtype), device)
    apply_tune(model, plain_dict(cfg.tune))
    model.image_token_id = 5
    if cfg.get('gradient_checkpointing'):
        model.gradient_checkpointing_enable()
    model.to(device).train()
    optim = build_optim_wrapper(model, cfg.optim_wrapper)
    processor: ImageProcessor = IMAGE_PROCESSORS.build(plain_dict(cfg.encoder.image_processor))
    tiles = max(processor.num_tiles(w, h) for w in range(100, 1300, 100) for h in (100, 400, 600))
    samples = options.samples or cfg.train_dataloader.batch_size
    text, answer = options.text, options.answer
    row = [5] * (tiles * model.tokens_per_tile) + [7] * (text + answer)
    ids = torch.tensor([row] * samples, device=device)
    labels = torch.full_like(ids, -100)
    labels[:, -answer:] = 7
    side = model.vision.image_size
    pixels = torch.randint(256, (samples * tiles, 3, side, side), dtype=torch.uint8)
    batch = {
        'input_ids': ids,
        'labels': labels,
        'attention_mask': torch.ones_like(ids),
        'pixel_values': pixels.to(device),
    }
    seconds = []
    for _ in range(options.steps + 2):
        wait()
        start = time.perf_counter()
        with optim.autocast():
            loss = model(**batch)['loss']
        optim.backward(loss)
        optim.update(lambda norm: None)
        wait()
        seconds.append(time.perf_counter() - start)
    median = sorted(seconds[2:])[options.steps // 2]
    work = flops(model, samples * tiles, ids.numel(), samples * answer)
    card = next((v for k, v in PEAK_TFLOPS.items() if cuda and k in torch.cuda.get_device_name()), None)
    made = make_plan(cfg, gpus=1)
    figures = {
        'samples': samples, 'tiles': samples * tiles, 'tokens': ids.numel(), 'seconds': median, 'loss': float(loss),
        'tokens_per_second': ids.numel() / median, 'tflops': work / median / 1e12,
        'predicted_gib': made.memory.total / 2**30,
    }  # fmt: skip
    if cuda:
        figures['peak_gib'] = torch.cuda.max_memory_reserved() / 2**30
        figures['allocated_gib'] = torch.cuda.max_memory_allocated() / 2**30
        if card:
            figures['mfu'] = figures['tflops'] / card
    del model, optim, batch, loss
    gc.collect()
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    return figures


def main() -> None:
    """Run every config named and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('configs', nargs='+')
    parser.add_argument('--samples', type=int, help="per batch (default: the config's batch_size)")
    parser.add_argument('--text', type=int, default=160, help='prompt tokens of a sample besides its picture')
    parser.add_argument('--answer', type=int, default=64, help='trained tokens of a sample')
    parser.add_argument('--steps', type=int, default=5)
    parser.add_argument('--device', default='cuda')
    parser.add_argument('--cfg-options', nargs='+', default=[])
    parser.add_argument('--json', help='write the figures to this file')
    options = parser.parse_args()
    import torch

    where = (
        torch.cuda.get_device_name() if options.device.startswith('cuda') else f'CPU, {torch.get_num_threads()} threads'
    )
    print(where, 'torch', torch.__version__)
    results = {}
    for name in options.configs:
        try:
            results[name] = run(name, options)
        except torch.cuda.OutOfMemoryError as error:
            print(f'{name}: out of memory: {str(error).splitlines()[0]}')
            continue
        print(name, json.dumps({k: round(v, 4) for k, v in results[name].items()}))
    if options.json:
        with open(options.json, 'w') as file:
            json.dump(results, file, indent=1)


if __name__ == '__main__':
    main()
