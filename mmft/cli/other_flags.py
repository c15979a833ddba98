"""Options that ``mmft train`` does not have, and the place in a config of what they set.

The names are those of transformers' ``Trainer``, of LLaVA's and InternVL's scripts, and of XTuner and mmengine.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence

from mmft.words import near_names, suggested

__all__ = ['PLACES', 'place_of', 'unknown_options']

PLACES = {
    # Rates and steps.
    'lr learning_rate': 'optim_wrapper.optimizer.lr={value}',
    'mm_projector_lr projector_lr': '+optim_wrapper.paramwise_cfg.parts.projector.lr={value}',
    'mm_vision_tower_lr vision_lr': '+optim_wrapper.paramwise_cfg.parts.vision.lr={value}',
    'weight_decay wd': 'optim_wrapper.optimizer.weight_decay={value}',
    'optim optimizer': 'optim_wrapper.optimizer.type=AdamW',
    'max_grad_norm clip_grad grad_clip gradient_clipping': 'optim_wrapper.clip_grad.max_norm={value}',
    'lr_scheduler_type lr_scheduler scheduler': 'param_scheduler.type={value}',
    'warmup_ratio': 'param_scheduler.warmup_ratio={value}',
    'warmup_steps': '+param_scheduler.warmup={value}',
    'num_train_epochs epochs max_epochs num_epochs n_epochs': 'train_cfg.max_epochs={value}',
    'max_steps max_iters steps': "'train_cfg=dict(max_iters={value})'",
    'bf16 fp16 amp mixed_precision': 'optim_wrapper.dtype=bfloat16 (or float16)',
    'tf32': 'tf32=True',
    'gradient_accumulation_steps accumulative_counts grad_accum': 'optim_wrapper.accumulative_counts={value}',
    'gradient_checkpointing grad_checkpoint': 'gradient_checkpointing=True',
    # Data.
    'batch_size per_device_train_batch_size train_batch_size micro_batch_size': 'train_dataloader.batch_size={value}',
    'per_device_eval_batch_size eval_batch_size': 'val_dataloader.batch_size={value}',
    'dataloader_num_workers num_workers workers': 'train_dataloader.num_workers={value}',
    'data_path ann_file train_file dataset data': 'train_dataloader.dataset.ann_file={value}',
    'meta_path': '+train_dataloader.dataset.meta_file={value}',
    'image_folder image_root image_dir': 'train_dataloader.dataset.image_root={value}',
    'group_by_modality_length group_by_length': 'train_dataloader.sampler.group_by_length=True',
    'model_max_length max_seq_length max_length cutoff_len': 'encoder.max_length={value}',
    'max_dynamic_patch max_tiles': 'encoder.image_processor.max_tiles={value}',
    'version conv_style template': 'encoder.template={value}',
    # The model and what trains.
    'model_name_or_path model pretrained': 'pretrained={value}',
    'pretrain_mm_mlp_adapter init_from load_from': 'init_from={value}',
    'lora_r lora_rank': 'tune.llm.r={value}',
    'lora_alpha': 'tune.llm.alpha={value}',
    'lora_dropout': 'tune.llm.dropout={value}',
    'lora_enable use_llm_lora': "'tune.llm=dict(type=\"lora\", r=128, alpha=256)'",
    'bits load_in_4bit': "'tune.llm=dict(type=\"qlora\", r=128, alpha=256)'",
    'freeze_llm freeze_backbone freeze_mlp tune_mm_mlp_adapter': 'tune.llm=frozen (or tune.vision, tune.projector)',
    # What is written.
    'save_steps': 'default_hooks.checkpoint.by_epoch=False default_hooks.checkpoint.interval={value}',
    'save_total_limit': 'default_hooks.checkpoint.max_keep_ckpts={value}',
    'logging_steps log_interval': 'default_hooks.progress.interval={value}',
}  # fmt: skip
"""Names of an option elsewhere -> what to give ``--cfg-options``; ``{value}`` is what was given with it."""

_OPTIONS = {
    'output_dir out_dir out save_dir workdir': '--work-dir {value}',
    'resume_from_checkpoint resume_from auto_resume': '--resume {value}',
    'config cfg': '{value} without the option: the config comes first',
    'nproc_per_node num_gpus ngpus gpu gpu_ids devices nnodes': 'torchrun --nproc_per_node=N tools/train.py CONFIG ...',
    'device cuda': 'CUDA_VISIBLE_DEVICES=0 mmft train CONFIG ...',
}
"""Names of an option elsewhere -> how ``mmft train`` says it."""


def unknown_options(unknown: Sequence[str], argv: Sequence[str], parser: argparse.ArgumentParser) -> str:
    """What to say of options that a command does not have, and where each has its place.

    Args:
        unknown: what argparse did not understand.
        argv: the whole command line: argparse may have taken an unknown option's value for something else.
        parser: the command's.
    """
    lines = [f'unknown: {" ".join(unknown)}']
    known = [name for action in parser._actions for name in action.option_strings]
    configured = '--cfg-options' in known
    for word in unknown:
        if not re.match(r'--?[A-Za-z]', word):
            continue
        option, _, value = word.partition('=')
        following = argv[argv.index(word) + 1 :][:1]
        value = value or (following[0] if following and not following[0].startswith('--') else '...')
        name = re.sub(r'[-.]', '_', option.lstrip('-')).lower()
        if configured and (place := place_of(name, value)):
            lines.append(f'  {option}: write --cfg-options {place}')
        elif parser.prog.endswith('train') and (place := _place(_OPTIONS, name, value)):
            lines.append(f'  {option}: write {place}')
        elif near := near_names(option, known, cutoff=0.7):
            lines.append(f'  {option}: {suggested(near, form=str)}')
        elif configured:
            lines.append(
                f'  {option}: a setting of the config is changed with --cfg-options KEY=VALUE (docs/configs.md)'
            )
    return '\n'.join(lines)


def place_of(name: str, value: str = '...') -> str:
    """What to give ``--cfg-options`` for the setting that is called ``name`` elsewhere; '' where it is not known."""
    return _place(PLACES, name, value)


def _place(table: dict[str, str], name: str, value: str) -> str:
    return next((place.format(value=value) for names, place in table.items() if name in names.split()), '')
