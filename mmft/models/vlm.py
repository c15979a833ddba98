"""VLM, the one composite: vision tower, projector, perhaps a merge, and language model; fuse, loss, generate.

InternVL2, LLaVA and their relatives are choices of its parts. The image placeholders are expanded by the encoder, so
fusing is filling slots.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.model import BaseModel
from torch import Tensor, nn

from mmft.errors import ConfigError, ShapeError
from mmft.models.base import LanguageModel, Projector, VisionTower, check_attributes, check_parts, check_widths
from mmft.models.losses import chunked_cross_entropy
from mmft.models.merge import AnyResMerge, merge_tokens
from mmft.models.normalizer import IMAGENET_MEAN, IMAGENET_STD, TileNormalizer
from mmft.models.precision import mixed_autocast
from mmft.models.sharding import gathers_weights
from mmft.models.slots import check_slots, run_ends
from mmft.registry import LANGUAGE_MODELS, MERGES, MODELS, PROJECTORS, VISION_TOWERS
from mmft.structures import IGNORE_INDEX, Sample
from mmft.words import count_of

__all__ = ['IMAGENET_MEAN', 'IMAGENET_STD', 'VLM', 'TileNormalizer']


@MODELS.register_module()
class VLM(BaseModel):
    """Vision tower + projector (+ merge) + language model.

    Args:
        vision, projector, llm: built parts, or their config dicts; a projector's dict needs no ``in_dim``/``out_dim``.
        merge: puts the tokens of a picture's tiles in order (``AnyResMerge``); a dict needs no ``dim``. None: tile
            after tile. It counts as a piece of the projector for tuning and learning rates.
        image_token_id: id of the placeholder whose positions receive image features. An encoder's counts
            (``take_image_token``): the original InternVL2 keeps it in its tokenizer only.
        pixel_mean, pixel_std: per channel, of pixels in 0..1; None: as the tower says, ImageNet's where it does not.

    Shapes: B samples, L tokens, N tiles, S tile side, V vocabulary.
    """

    def __init__(
        self,
        vision: VisionTower | dict,
        projector: Projector | dict,
        llm: LanguageModel | dict,
        image_token_id: int | None = None,
        pixel_mean: Sequence[float] | None = None,
        pixel_std: Sequence[float] | None = None,
        merge: AnyResMerge | dict | None = None,
    ) -> None:
        check_parts(vision=vision, projector=projector, llm=llm)
        vision = VISION_TOWERS.build(vision)
        pixel_mean = vision.pixel_mean if pixel_mean is None else pixel_mean
        pixel_std = vision.pixel_std if pixel_std is None else pixel_std
        # Under a meta build (``with torch.device('meta')``) the two small buffers must still hold values.
        with torch.device('cpu'):
            normalizer = TileNormalizer(pixel_mean, pixel_std)
        super().__init__(data_preprocessor=normalizer)
        self.pixel_mean, self.pixel_std = tuple(pixel_mean), tuple(pixel_std)
        self.vision: VisionTower = vision
        self.llm: LanguageModel = LANGUAGE_MODELS.build(llm)
        check_attributes(self.vision, self.llm)
        if isinstance(projector, dict):
            projector = {'in_dim': self.vision.hidden_size, 'out_dim': self.llm.hidden_size, **projector}
        self.projector: Projector = PROJECTORS.build(projector)
        check_widths(self.vision, self.projector, self.llm)
        if isinstance(merge, dict):
            merge = {'dim': self.llm.hidden_size, **merge}
        self.merge: AnyResMerge | None = MERGES.build(merge)
        self.image_token_id = image_token_id
        # A tile size that the projector cannot take, or the merge, shows here, not in step 1.
        try:
            tokens = self.tokens_per_tile
            if self.merge is not None:
                self.merge.check(tokens)
        except ShapeError as error:
            pair = f'{type(self.vision).__name__} with {type(self.projector).__name__}'
            raise ConfigError(f'{pair}: {error.what}', expected=error.expected, fix=error.fix) from error

    def take_image_token(self, encoder: Any) -> None:
        """Let features go where ``encoder`` puts its placeholders, whatever a config said; None changes nothing."""
        if encoder is not None:
            self.image_token_id = encoder.image_token_id

    @property
    def tokens_per_tile(self) -> int:
        """Q of a tile of the tower's own size."""
        return self.num_image_tokens(self.vision.image_size)

    def num_image_tokens(self, image_size: int) -> int:
        """Q of a tile of side ``image_size`` px."""
        return self.projector.num_tokens(self.vision.num_patches(image_size))

    @property
    def dtype(self) -> torch.dtype:
        """dtype of the language model's input embeddings."""
        return self.llm.lm.get_input_embeddings().weight.dtype

    @property
    def device(self) -> torch.device:
        """Where the language model's input embeddings are."""
        return self.llm.lm.get_input_embeddings().weight.device

    def train(self, mode: bool = True) -> VLM:
        """Modules in which nothing trains stay in eval mode: a frozen tower has no drop path and no dropout.

        (InternVL's own script leaves drop path active on its frozen ViT.)
        """
        super().train(mode)
        for module in self.modules() if mode else ():
            parameters = list(module.parameters())
            if parameters and not any(p.requires_grad for p in parameters):
                module.eval()
        # transformers checkpoints a block only in training mode, and gradients pass through a frozen language model
        # too. The block's own flag decides nothing else; its dropouts stay off.
        for block in self.llm.layers if mode else ():
            block.training = True
        return self

    def image_features(self, pixel_values: Tensor) -> Tensor:
        """(N,3,S,S) normalised (or uint8) -> (N,Q,Dl)."""
        pixel_values = self.data_preprocessor.normalize(pixel_values)
        trained = torch.is_grad_enabled() and any(p.requires_grad for p in self.vision.parameters())
        # Pixels are float32; a user's tower need not handle 16-bit weights.
        kinds = (p.dtype for p in self.vision.parameters() if p.is_floating_point())
        with torch.set_grad_enabled(trained):
            patches = self.vision(pixel_values.to(next(kinds, pixel_values.dtype)))
        return self.projector(patches)

    def picture_tokens(
        self, pixel_values: Tensor, image_sizes: Tensor | None = None, image_grids: Tensor | None = None
    ) -> Tensor:
        """All image features of a batch in the order of their slots: (N,3,S,S) -> (slots,Dl)."""
        return merge_tokens(self.merge, self.image_features(pixel_values), image_sizes, image_grids)

    def fuse(
        self,
        input_ids: Tensor,
        pixel_values: Tensor | None,
        image_sizes: Tensor | None = None,
        image_grids: Tensor | None = None,
        image_slots: Sequence[int] | None = None,
    ) -> Tensor:
        """Token embeddings with image features in the placeholders' places: (B,L), (N,3,S,S) -> (B,L,Dl).

        Raises:
            ShapeError: the number of placeholders is not the number of features, in all or of a picture.
        """
        if input_ids.dim() != 2:
            raise ShapeError(f'input_ids of shape {tuple(input_ids.shape)}', expected='(B,L)', fix='input_ids[None]')
        # An image token that was added to the tokenizer may have no row in the embedding: its slots are filled below.
        slots = input_ids == (-1 if self.image_token_id is None else self.image_token_id)
        embeds = self.llm.embed(input_ids.masked_fill(slots, 0))
        ends = run_ends(slots)
        count = ends[-1] if ends else 0
        if pixel_values is None or len(pixel_values) == 0:
            if count:
                raise ShapeError(
                    f'{count_of(count, "image placeholder")} (id {self.image_token_id}) in input_ids, but no '
                    'pixel_values',
                    expected='as many placeholders as image features',
                    fix='pass the pictures too, or encode the text without <image>',
                )
            return embeds + self._unused_features(embeds.device) if self._must_touch_vision() else embeds
        if self.image_token_id is None:
            fix = 'model.take_image_token(encoder), or set model.image_token_id'
            raise ConfigError('the model has no image_token_id but got pictures', fix=fix)
        features = self.picture_tokens(pixel_values, image_sizes, image_grids)
        if count != len(features):
            raise ShapeError(
                f'{count_of(count, "image placeholder")} in input_ids, but {count_of(len(pixel_values), "tile")} of '
                f'{self.num_image_tokens(pixel_values.shape[-1])} tokens = {len(features)} image features'
                + (', padding left out and newlines counted' if self.merge is not None else ''),
                expected='as many placeholders as features',
                fix='encode with the ChatEncoder that was saved with this model (same tiles, same tokens per tile)',
            )
        per_tile = self.num_image_tokens(pixel_values.shape[-1])
        if self.merge is None:
            check_slots(ends, [per_tile] * len(pixel_values))
        else:
            counts = self.merge.num_tokens(image_sizes.tolist(), image_grids.tolist(), per_tile)
            check_slots(ends, counts, self.merge, image_slots)
        return embeds.masked_scatter(slots.unsqueeze(-1), features.to(embeds.dtype))

    def _must_touch_vision(self) -> bool:
        """Whether a batch without pictures still runs the tower, over a blank tile.

        Ranks must run the same collectives: DDP's reducer hangs if one of them skips the tower, and so do ZeRO-3's
        gathers, in validation too. Behind a frozen language model a loss without pictures would have no gradient.
        """
        if gathers_weights(self.vision):
            return True
        alone = not (torch.distributed.is_available() and torch.distributed.is_initialized())
        return self.training and not (alone and any(p.requires_grad for p in self.llm.parameters()))

    def _unused_features(self, device: torch.device) -> Tensor:
        # Not `self.device`: under ZeRO-3 reading a weight outside its module gathers it, on this rank alone.
        side = self.vision.image_size
        alone = (torch.tensor([[side, side]]), torch.tensor([[0, 0]])) if self.merge is not None else ()
        # The sum of no row: in 16 bits that of all, or of the gradients that come back, may be inf, and 0 * inf is nan.
        return self.picture_tokens(torch.zeros(1, 3, side, side, device=device), *alone)[:0].sum()

    def _auxiliary_losses(self, pictured: bool) -> dict[str, Tensor]:
        """What the projector's last pass wants added to the loss; nothing for a pass over no picture."""
        losses = self.projector.take_losses()
        return losses if pictured else {name: 0.0 * loss for name, loss in losses.items()}

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        pixel_values: Tensor | None = None,
        labels: Tensor | None = None,
        position_ids: Tensor | None = None,
        mode: str = 'loss',
        loss_weight: Tensor | None = None,
        num_items: Tensor | float | None = None,
        image_sizes: Tensor | None = None,
        image_grids: Tensor | None = None,
        image_slots: Sequence[int] | None = None,
        micro_batches: int = 1,
        **generate_kwargs: Any,
    ) -> dict[str, Tensor] | Tensor:
        """One pass.

        Args:
            input_ids: (B,L) int64, image placeholders expanded.
            attention_mask: (B,L), None for packed rows.
            pixel_values: (N,3,S,S) normalised floats or uint8, or None.
            labels: (B,L) unshifted, ``IGNORE_INDEX`` where nothing is trained. Shifting happens here.
            position_ids: (B,L); restart at 0 in packed rows.
            mode: ``loss`` -> ``{'loss': scalar}``, the projector's auxiliary losses added to it, and detached beside it
                under their own names; ``tensor`` -> logits (B,L,V); ``predict`` -> generated ids (B,new).
            loss_weight: (B,L) weight of each label, or None for ones.
            num_items: what the summed loss is divided by; by default the weight of this batch's trained tokens. An
                accumulated batch passes its own total, so that every token counts the same.
            image_sizes, image_grids: (M,2) (width, height) and (columns, rows) of the pictures; with ``merge`` only.
            image_slots: placeholders that the encoder made of each picture, to be compared; with ``merge`` only.
            micro_batches: how many passes make up a step; auxiliary losses are averaged over them.
        """
        embeds = self.fuse(input_ids, pixel_values, image_sizes, image_grids, image_slots)
        auxiliary = self._auxiliary_losses(pixel_values is not None and len(pixel_values) > 0)
        if mode == 'predict':
            return self.llm.generate(embeds, attention_mask, **generate_kwargs)
        hidden = self.llm.hidden(embeds, attention_mask, position_ids)
        if mode == 'tensor':
            return self.llm.head(hidden)
        if mode != 'loss' or labels is None:
            what = f'VLM.forward(mode={mode!r}, labels={"given" if labels is not None else None})'
            raise ConfigError(what, expected="mode 'loss' with labels, 'tensor' or 'predict'")
        loss = self.loss(hidden, labels, loss_weight, num_items)
        auxiliary = {name: value / micro_batches for name, value in auxiliary.items()}
        shown = {name: value.detach() for name, value in auxiliary.items()}
        return {'loss': loss + sum(auxiliary.values()), **shown}

    def loss(
        self, hidden: Tensor, labels: Tensor, loss_weight: Tensor | None = None, num_items: Tensor | float | None = None
    ) -> Tensor:
        """Mean cross entropy over trained tokens; token i is predicted from position i-1.

        Args:
            hidden: (B,L,Dl).
            labels: (B,L), unshifted.
        """
        if labels.shape != hidden.shape[:2]:
            raise ShapeError(f'labels of shape {tuple(labels.shape)}', expected=f'{tuple(hidden.shape[:2])}, unshifted')
        targets = labels[:, 1:]
        trained = targets != IGNORE_INDEX
        weight = loss_weight[:, 1:][trained].float() if loss_weight is not None else None
        total = chunked_cross_entropy(
            hidden[:, :-1][trained], targets[trained], self.llm.head, self.llm.linear_head(), weight
        )
        if num_items is None:
            num_items = weight.sum() if weight is not None else trained.sum().clamp(min=1)
        return total / num_items

    @torch.no_grad()
    def generate(
        self, input_ids: Tensor, pixel_values: Tensor | None = None, attention_mask: Tensor | None = None, **kwargs: Any
    ) -> Tensor:
        """Generated ids (B,new), without the prompt; prompts of a batch are padded on the left.

        ``kwargs``: pictures as in ``forward``; everything else as transformers' ``generate``.
        """
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        with mixed_autocast(self, input_ids.device):
            return self(input_ids, attention_mask, pixel_values, mode='predict', **kwargs)

    def chat(
        self,
        encoder: Any,
        question: str,
        images: Sequence[Any] = (),
        history: Sequence[dict[str, str]] = (),
        max_new_tokens: int = 512,
        do_sample: bool = False,
        **kwargs: Any,
    ) -> str:
        """Answer ``question`` about ``images``.

        Args:
            encoder: the ``ChatEncoder`` that belongs to the model.
            images: paths or PIL pictures. A question without ``<image>`` gets one per picture in front.
            history: earlier messages ``{'role', 'content'}``; their pictures come first in ``images``.
            kwargs: as transformers' ``generate``.
        """
        return self.answer(encoder, encoder.prompt(question, images, history), max_new_tokens, do_sample, **kwargs)

    @torch.no_grad()
    def answer(
        self, encoder: Any, sample: Sample, max_new_tokens: int = 512, do_sample: bool = False, **kwargs: Any
    ) -> str:
        """The answer to a prompt that ``encoder.prompt`` made; arguments as of ``chat``."""
        if sample.image_grids:
            kwargs['image_sizes'] = torch.tensor(sample.image_sizes)
            kwargs['image_grids'] = torch.tensor(sample.image_grids)
            kwargs['image_slots'] = sample.num_slots
        self.take_image_token(encoder)
        mode = self.training
        self.eval()
        try:
            ids = self.generate(
                sample.input_ids[None].to(self.device),
                sample.pixel_values.to(self.device) if sample.pixel_values is not None else None,
                max_new_tokens=max_new_tokens,
                do_sample=do_sample,
                eos_token_id=encoder.stop_token_ids,
                pad_token_id=encoder.pad_token_id,
                **kwargs,
            )
        finally:
            self.train(mode)
        return encoder.decode(ids[0])

    def gradient_checkpointing_enable(self) -> None:
        """Trade compute for memory in tower and language model: blocks are run again in the backward pass."""
        self.vision.gradient_checkpointing = True
        self.llm.gradient_checkpointing_enable()

    @property
    def parts(self) -> dict[str, nn.Module]:
        """The three parts by name, as configs name them; the merge is not among them (see ``part_of``)."""
        return {'vision': self.vision, 'projector': self.projector, 'llm': self.llm}
