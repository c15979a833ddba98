"""How fast and in how much memory a checkpoint becomes a model directory, against ``cp`` of the same bytes.

    python benchmarks/convert.py                 # InternVL2-2B's real shapes: 4.4 GB of weights, needs 11 GB of disk
    python benchmarks/convert.py --size small    # seconds

A base directory (OpenGVLab's layout, bfloat16) and a LoRA checkpoint are drawn at random, then, in turn and several
times: ``cp`` of the base's weight file, and the conversion, each in a process of its own, each flushed to disk. Both
begin with the files in the page cache. Reported are the best of each, and the peak memory of the converting process,
beside that of a process that only imports mmft.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from mmengine.config import Config

from mmft.checkpoint import build_meta, fingerprint
from mmft.export.shards import ShardWriter
from mmft.files.tensors import TensorDirectory
from mmft.layouts import Contents, layout_for
from mmft.models.tuning import apply_tune, check_tune

CONFIGS = Path(__file__).parents[1] / 'configs' / '_base_' / 'models'


def model_of(size: str) -> dict:
    """The ``model`` dict of InternVL2-2B, or one of its kind with 1/80 of the parameters."""
    model = Config.fromfile(CONFIGS / 'internvl2_2b.py').model.to_dict()
    if size == 'small':
        model['vision'].update(hidden_size=256, num_hidden_layers=4, num_attention_heads=4, intermediate_size=1024)
        small = {'vocab_size': 20000, 'hidden_size': 512, 'intermediate_size': 2048, 'num_hidden_layers': 4}
        model['llm'].update(**small, num_attention_heads=4, num_key_value_heads=2)
    return model


def make_base(directory: Path, model_config: dict) -> None:
    """A base directory: values from one random block, repeated, since only their number matters."""
    directory.mkdir()
    model = build_meta(model_config)
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    tensors = {}
    layout = layout_for('official', model_config)
    for step in layout.to_theirs(shapes):
        made = step(lambda name: torch.empty(shapes[name], device='meta'))
        tensors |= {name: (torch.bfloat16, tuple(value.shape)) for name, value in made.items()}
    noise = torch.randn(max(torch.Size(shape).numel() for _, shape in tensors.values())).mul_(0.02).to(torch.bfloat16)
    writer = ShardWriter(directory, tensors, '1TB')
    for name, (_, shape) in tensors.items():
        writer.write(name, [noise[: torch.Size(shape).numel()].view(shape)])
    writer.close()
    layout.write_files(directory, Contents(model, model_config, dtype='bfloat16'))


def make_checkpoint(path: Path, base: Path, model_config: dict, rank: int) -> None:
    """A checkpoint as a LoRA training of language model and projector writes it."""
    model = build_meta(model_config)
    tune = check_tune({'projector': 'full', 'llm': {'type': 'lora', 'r': rank, 'alpha': 2.0 * rank}})
    with torch.device('meta'):
        used = apply_tune(model, tune)
    state = {name: torch.randn(p.shape) * 0.01 for name, p in model.named_parameters() if p.requires_grad}
    meta = {'base': {'path': str(base), 'fingerprint': fingerprint(TensorDirectory(base))}, 'tune': used, 'config': ''}
    torch.save({'state_dict': state, 'encoder': None, 'meta': meta}, path)


def copy(source: Path, target: Path) -> float:
    """Seconds of ``cp`` and a flush to disk."""
    started = time.perf_counter()
    subprocess.run(['cp', str(source), str(target)], check=True)
    handle = os.open(target, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)
    return time.perf_counter() - started


def child(arguments: dict) -> dict:
    """The conversion (or nothing, for the memory of the imports), in this process."""
    from mmft.export import convert

    started = time.perf_counter()
    made = None
    if arguments.get('out'):
        cfg = {'model': arguments['model'], 'pretrained': arguments['base']}
        made = convert(cfg, arguments['checkpoint'], arguments['out'], arguments['layout'], check=arguments['check'])
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {
        'seconds': time.perf_counter() - started,
        'phases': made.seconds if made else {},
        'cpu_seconds': used.ru_utime + used.ru_stime,
        'peak_mib': peak_mib(),
    }


def peak_mib() -> float:
    """Most memory this process ever had. (``ru_maxrss`` also knows the size of the process it was forked from.)"""
    status = Path('/proc/self/status')
    if not status.is_file():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return int(next(line for line in status.read_text().splitlines() if line.startswith('VmHWM')).split()[1]) / 1024


def run_child(arguments: dict) -> dict:
    """``child`` in a process of its own; ``process_seconds`` includes Python and its imports."""
    started = time.perf_counter()
    command = [sys.executable, __file__, '--child', json.dumps(arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return {**json.loads(done.stdout.splitlines()[-1]), 'process_seconds': time.perf_counter() - started}


def measure(root: Path, args: argparse.Namespace) -> dict:
    """Both, in turn, ``args.repeat`` times."""
    model = model_of(args.size)
    base, checkpoint, out = root / 'base', root / 'iter_1.pth', root / 'out'
    make_base(base, model)
    make_checkpoint(checkpoint, base, model, args.rank)
    os.sync()
    task = {
        'model': model,
        'base': str(base),
        'checkpoint': str(checkpoint),
        'layout': args.layout,
        'check': args.check,
    }
    weights = base / 'model.safetensors'
    copies, runs = [], []
    for _ in range(args.repeat):
        copies.append(copy(weights, root / 'copy'))
        (root / 'copy').unlink()
        runs.append(run_child({**task, 'out': str(out)}))
        shutil.rmtree(out)
    imports = run_child({})
    best = min(runs, key=lambda run: run['seconds'])
    return {
        'weights_gb': weights.stat().st_size / 1e9,
        'checkpoint_gb': checkpoint.stat().st_size / 1e9,
        'layout': args.layout,
        'rank': args.rank,
        'check': args.check,
        'cp_seconds': copies,
        'convert_seconds': [run['seconds'] for run in runs],
        'process_seconds': [run['process_seconds'] for run in runs],
        'phases': best['phases'],
        'cpu_seconds': best['cpu_seconds'],
        'peak_mib': max(run['peak_mib'] for run in runs),
        'imports_peak_mib': imports['peak_mib'],
        'speed_relative_to_cp': min(copies) / best['seconds'],
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--size', choices=('2b', 'small'), default='2b')
    parser.add_argument('--layout', choices=('hf', 'official'), default='hf')
    parser.add_argument(
        '--rank', type=int, default=128, help='of LoRA; 128 is that of configs/internvl2_2b_food_lora.py'
    )
    parser.add_argument('--check', choices=('none', 'weights'), default='none', help='also time the check at the end')
    parser.add_argument('--repeat', type=int, default=3)
    parser.add_argument('--dir', type=Path, default=None, help='where to write (default: the temporary directory)')
    parser.add_argument('--json', type=Path, help='write the numbers here')
    parser.add_argument('--child', help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(child(json.loads(args.child))))
        return
    with tempfile.TemporaryDirectory(dir=args.dir) as root:
        result = measure(Path(root), args)
    gigabytes, best = result['weights_gb'], min(result['convert_seconds'])
    copied, ratio = min(result['cp_seconds']), result['speed_relative_to_cp']
    print(f'{gigabytes:.2f} GB of weights, LoRA checkpoint of {result["checkpoint_gb"]:.2f} GB, rank {args.rank}')
    print(f'cp       {copied:6.2f} s   {gigabytes / copied:5.2f} GB/s')
    print(f'convert  {best:6.2f} s   {gigabytes / best:5.2f} GB/s   {ratio:.2f} x the speed of cp, to {args.layout}')
    print(f'memory   {result["peak_mib"]:6.0f} MiB at most, {result["imports_peak_mib"]:.0f} MiB of them imports')
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + '\n')


if __name__ == '__main__':
    main()
