"""Step time and peak memory of training, against the same weights in transformers' own InternVL class.

    python benchmarks/train_step.py                 # the shape below, float32, 2 threads, full and LoRA
    python benchmarks/train_step.py --hand-back     # memory that is alive, without what the allocator keeps
    python benchmarks/train_step.py --device cuda --dtype bfloat16

Shape: InternViT 6 x 384 frozen, 224 px tiles of 64 tokens; Llama 6 x 512; vocabulary 92,553; a batch of 4 samples with
1, 3, 5, 7 tiles and answers of 12 to 60 tokens. The peer takes what its class offers: a padded batch and full logits.
Each measurement is a process of its own; memory is the peak above the loaded model. Both sides run in one call, so the
ratios hold for the machine at hand.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

VISION = {'hidden_size': 384, 'num_hidden_layers': 6, 'num_attention_heads': 6, 'intermediate_size': 1536,
          'image_size': [224, 224], 'patch_size': [14, 14], 'attention_bias': True}  # fmt: skip
TEXT = {'model_type': 'llama', 'vocab_size': 92553, 'hidden_size': 512, 'num_hidden_layers': 6,
        'num_attention_heads': 8, 'intermediate_size': 1408, 'pad_token_id': 0, 'bos_token_id': 1, 'eos_token_id': 2,
        'tie_word_embeddings': False}  # fmt: skip
IMAGE_TOKEN, TOKENS_PER_TILE = 92546, 64
TILES, ANSWERS, QUESTION = (1, 3, 5, 7), (12, 28, 44, 60), 40


def write_model(directory: str) -> None:
    """Random weights in the HF-native layout, which both sides read."""
    import torch
    from transformers import InternVLConfig, InternVLForConditionalGeneration

    torch.manual_seed(0)
    config = InternVLConfig(vision_config=VISION, text_config=TEXT, image_token_id=IMAGE_TOKEN,
                            tie_word_embeddings=False, architectures=['InternVLForConditionalGeneration'])  # fmt: skip
    InternVLForConditionalGeneration(config).save_pretrained(directory)


def samples():
    """The batch, unpadded: (input_ids, labels) per sample, and all tiles."""
    import torch

    generator = torch.Generator().manual_seed(1)
    rows = []
    for tiles, answer in zip(TILES, ANSWERS, strict=True):
        text = torch.randint(3, 90000, (QUESTION + answer,), generator=generator)
        ids = torch.cat([torch.full((tiles * TOKENS_PER_TILE,), IMAGE_TOKEN), text])
        labels = ids.clone()
        labels[:-answer] = -100
        rows.append((ids, labels))
    return rows, torch.rand(sum(TILES), 3, 224, 224, generator=generator)


def padded(rows, pixels):
    """One padded batch: what the peer takes."""
    from torch.nn.utils.rnn import pad_sequence

    ids = pad_sequence([r[0] for r in rows], batch_first=True)
    labels = pad_sequence([r[1] for r in rows], batch_first=True, padding_value=-100)
    mask = pad_sequence([r[0].new_ones(len(r[0])) for r in rows], batch_first=True)
    return {'input_ids': ids, 'labels': labels, 'attention_mask': mask, 'pixel_values': pixels}


def packed(rows, pixels):
    """One row without padding: what mmft's PackCollator makes."""
    import torch

    labels = torch.cat([r[1] for r in rows])[None]
    positions = torch.cat([torch.arange(len(r[0])) for r in rows])[None]
    return {'input_ids': torch.cat([r[0] for r in rows])[None], 'labels': labels, 'position_ids': positions,
            'pixel_values': pixels}  # fmt: skip


def reset_peak() -> float:
    """Forget the peak so far (loading has one of its own); resident MiB now. Linux."""
    Path('/proc/self/clear_refs').write_text('5')
    return peak_mib()


def peak_mib() -> float:
    """Peak resident memory since ``reset_peak``, MiB."""
    status = Path('/proc/self/status').read_text()
    return int(re.search(r'VmHWM:\s+(\d+) kB', status)[1]) / 1024


def measure(side: str, tune: str, directory: str, options: argparse.Namespace) -> dict[str, float]:
    """Median seconds and peak MiB of a step, in this process."""
    import torch

    torch.set_num_threads(options.threads)
    dtype = getattr(torch, options.dtype)
    rows, pixels = samples()
    if side == 'mmft':
        import mmft
        from mmft.models.tuning import apply_tune

        model, _ = mmft.load(directory, dtype=dtype)
        llm = {'type': 'lora', 'r': 16, 'alpha': 32, 'dropout': 0.0} if tune == 'lora' else 'full'
        apply_tune(model, {'vision': 'frozen', 'projector': 'full', 'llm': llm})
        batch = packed(rows, pixels) if options.pack else padded(rows, pixels)
    else:
        from peft import LoraConfig, inject_adapter_in_model
        from transformers import InternVLForConditionalGeneration

        model = InternVLForConditionalGeneration.from_pretrained(directory, dtype=dtype)
        model.requires_grad_(tune == 'full')
        if tune == 'lora':
            targets = ['q_proj', 'k_proj', 'v_proj', 'o_proj', 'gate_proj', 'up_proj', 'down_proj']
            lora = LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, target_modules=targets)
            inject_adapter_in_model(lora, model.model.language_model)
            model.model.multi_modal_projector.requires_grad_(True)
        model.model.vision_tower.requires_grad_(False)
        batch = padded(rows, pixels)
    model.train().to(options.device)
    batch = {key: value.to(options.device) for key, value in batch.items()}
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5) if options.optimizer else None
    cuda = options.device.startswith('cuda')
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()  # out of the file mapping: weights are the model's, not the step's
    before = torch.cuda.memory_allocated() / 2**20 if cuda else reset_peak()
    seconds, loss = [], None
    for _ in range(options.steps + 1):
        start = time.perf_counter()
        with torch.autocast(options.device.split(':')[0], dtype=dtype, enabled=dtype != torch.float32):
            out = model(**batch)
        loss = out['loss']
        loss.backward()
        if optimizer is not None:
            optimizer.step()
        for parameter in trained:
            parameter.grad = None
        if cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    peak = torch.cuda.max_memory_allocated() / 2**20 if cuda else peak_mib()
    timed = sorted(seconds[1:])
    return {'seconds': timed[len(timed) // 2], 'mib': peak - before, 'loss': float(loss)}


def main() -> None:
    """Run every measurement in a process of its own and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--threads', type=int, default=2)
    parser.add_argument('--steps', type=int, default=3, help='timed steps, after one that is not')
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--dtype', default='float32', choices=['float32', 'bfloat16'])
    parser.add_argument('--optimizer', action='store_true', help='include an AdamW step and its states')
    parser.add_argument('--no-pack', dest='pack', action='store_false', help='give mmft the padded batch too')
    parser.add_argument('--hand-back', action='store_true', help='glibc gives freed blocks back at once: what is alive')
    parser.add_argument('--json', help='write the figures to this file')
    parser.add_argument('--one', nargs=3, metavar=('SIDE', 'TUNE', 'DIR'), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        side, tune, directory = options.one
        print(json.dumps(measure(side, tune, directory, options)))
        return
    figures: dict[str, dict] = {}
    with tempfile.TemporaryDirectory() as directory:
        subprocess.run([sys.executable, '-c', f'import sys; sys.path.insert(0, {sys.path[0]!r}); import train_step; '
                        f'train_step.write_model({directory!r})'], check=True)  # fmt: skip
        for tune in ('full', 'lora'):
            for side in ('transformers', 'mmft'):
                command = [sys.executable, __file__, *sys.argv[1:], '--one', side, tune, directory]
                # By itself glibc's heap keeps freed blocks, which saves time and counts as memory, on both sides. With
                # this setting blocks from 128 KiB on are mapped one by one: resident is what is alive.
                setting = {'MALLOC_TOP_PAD_': str(2**26)} if options.hand_back else {}
                environment = {**os.environ, **setting}
                output = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
                figures[f'{tune} {side}'] = json.loads(output.strip().splitlines()[-1])
    print(f'{"":24}{"seconds":>10}{"MiB above model":>18}{"loss":>10}')
    for name, row in figures.items():
        print(f'{name:24}{row["seconds"]:10.2f}{row["mib"]:18.0f}{row["loss"]:10.4f}')
    for tune in ('full', 'lora'):
        peer, ours = figures[f'{tune} transformers'], figures[f'{tune} mmft']
        print(f'{tune}: {peer["seconds"] / ours["seconds"]:.2f}x faster, {peer["mib"] / ours["mib"]:.2f}x less memory')
    if options.json:
        with open(options.json, 'w') as file:
            json.dump(figures, file, indent=1)


if __name__ == '__main__':
    main()
