"""A config, measured: its parts on the meta device, its largest batch, the memory of a step. No weights, no data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mmengine.config import Config

from mmft.checkpoint.build import as_dtype, build_meta
from mmft.checks import count_in_environment
from mmft.engine.build import grown_tune, tune_on_meta
from mmft.engine.plain import plain_dict
from mmft.engine.planning import memory
from mmft.engine.planning.memory import MOMENTS, Load, Memory, Setting, Weights
from mmft.engine.strategies import strategy_of
from mmft.models.vlm import VLM
from mmft.registry import IMAGE_PROCESSORS

__all__ = ['TEXT_TOKENS', 'Plan', 'image_processor', 'largest_load', 'make_plan', 'picture_tokens']

TEXT_TOKENS = 256
"""System prompt, question and answer, where the data and the tokenizer are not there to be counted."""

ANSWER_TOKENS = 64


@dataclass(frozen=True)
class Plan:
    """A config, measured.

    Attributes:
        model: on the meta device, tuned.
        tune: what trains, as used.
        weights: per part.
        load: the largest batch.
        memory: at the peak of a step of this batch, on one GPU.
        setting: what else decided about it.
    """

    model: VLM
    tune: dict[str, dict[str, Any]]
    weights: dict[str, Weights]
    load: Load
    memory: Memory
    setting: Setting


def make_plan(cfg: Config, gpus: int | None = None) -> Plan:
    """Measure a config.

    Args:
        cfg: the whole config.
        gpus: processes that share the work; by default what torchrun says, else 8 with DeepSpeed and 1 without.

    Raises:
        ConfigError: unknown parts, or a ``tune`` that cannot be.
    """
    model = build_meta(plain_dict(cfg.model))
    tune, quantised = tune_on_meta(model, grown_tune(cfg, model))
    weights = memory.weigh(model, quantised)
    load, setting = largest_load(cfg, model), _setting(cfg, gpus)
    return Plan(model, tune, weights, load, memory.estimate(model, tune, weights, load, setting), setting)


def _setting(cfg: Config, gpus: int | None) -> Setting:
    wrapper = cfg.get('optim_wrapper') or {}
    strategy = strategy_of(cfg)
    gpus = gpus or count_in_environment('WORLD_SIZE', strategy.usual_gpus, least=1)
    weight_bytes = (as_dtype(cfg.get('dtype') or 'float32') or as_dtype('bfloat16')).itemsize
    compute = wrapper.get('dtype')
    optimizer = wrapper.get('optimizer') or {}
    return Setting(
        weight_bytes=weight_bytes,
        compute_bytes=as_dtype(compute).itemsize if compute else weight_bytes,
        moments=1 if optimizer.get('momentum') else MOMENTS.get(str(optimizer.get('type')), 2),
        checkpointing=bool(cfg.get('gradient_checkpointing')),
        sharding=strategy.sharding(gpus),
    )


def image_processor(cfg: Config, model: VLM) -> tuple[Any, int]:
    """The image processor (None where the config has no pictures) and the tokens of its tiles."""
    settings = plain_dict(cfg.get('encoder') or {}).get('image_processor')
    if settings is None:
        return None, model.tokens_per_tile
    processor = IMAGE_PROCESSORS.build(settings)
    return processor, model.num_image_tokens(processor.tile_size)


def picture_tokens(processor: Any, per_tile: int, max_tiles: int | None = None) -> dict[int, int]:
    """Tiles that a picture can become -> the most tokens that so many tiles are."""
    if processor is None:
        return {0: 0}
    return processor.most_tokens(per_tile, max_tiles)


def largest_load(cfg: Config, model: VLM, samples: int | None = None, max_tiles: int | None = None) -> Load:
    """A batch of samples with one picture of the most tiles each."""
    processor, per_tile = image_processor(cfg, model)
    samples = samples or cfg.train_dataloader.get('batch_size', 1)
    counts = picture_tokens(processor, per_tile, max_tiles)
    tiles, length = max(counts), max(counts.values()) + TEXT_TOKENS
    length = min(length, (cfg.get('encoder') or {}).get('max_length') or length)
    return Load(samples=samples, tiles=samples * tiles, length=length, trained=samples * ANSWER_TOKENS)
