"""The contracts of the three model parts. Whatever keeps one of them can stand in a ``VLM``.

Shapes (mmft/structures.py has the legend): N tiles, S tile side, P patches, Q tokens per tile, Dv / Dl hidden sizes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmft.errors import ConfigError
from mmft.models.normalizer import IMAGENET_MEAN, IMAGENET_STD

__all__ = ['LanguageModel', 'Projector', 'VisionTower', 'check_attributes', 'check_parts', 'check_widths']


class VisionTower(nn.Module, ABC):
    """Tiles to patch features. The class token, where there is one, is dropped inside.

    Attributes:
        hidden_size: Dv.
        image_size: the tile side S the position table was made for.
        pixel_mean, pixel_std: what the tower was trained with, per channel, of pixels in 0..1; a model that names its
            own takes those.
    """

    hidden_size: int
    image_size: int
    pixel_mean: Sequence[float] = IMAGENET_MEAN
    pixel_std: Sequence[float] = IMAGENET_STD

    @abstractmethod
    def num_patches(self, image_size: int) -> int:
        """P of a tile of side ``image_size`` px."""

    @abstractmethod
    def forward(self, pixel_values: Tensor) -> Tensor:
        """(N,3,S,S) normalised -> (N,P,Dv)."""

    @property
    @abstractmethod
    def layers(self) -> nn.ModuleList:
        """The transformer blocks, in order: what 'unfreeze from layer N' counts."""

    @property
    def idle_layers(self) -> nn.ModuleList:
        """Blocks and norms that ``forward`` never runs. They cannot train, and DDP would wait for their gradients."""
        return nn.ModuleList()

    def reset_buffers(self) -> None:
        """Recompute buffers that no checkpoint holds, after a build on the meta device. Most towers have none."""


class Projector(nn.Module, ABC):
    """Patch features to language-model tokens. ``__init__(in_dim=Dv, out_dim=Dl, **own)``.

    Attributes:
        losses: auxiliary losses by name, each a scalar with its coefficient applied, to be added to the main loss.
            ``forward`` sets them anew in training mode, ``take_losses`` hands them over; most projectors have none.
    """

    losses: dict[str, Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.losses = {}

    def __getstate__(self) -> dict[str, Any]:
        # A loss holds the graph of its step: neither copied nor pickled with the module.
        return {**self.__dict__, 'losses': {}}

    def take_losses(self) -> dict[str, Tensor]:
        """``losses`` of the last pass, once: none are left, so that no later step adds them again."""
        losses, self.losses = self.losses, {}
        return losses

    def adopt(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors of a projector of another kind under this one's names, where one can start from the other.

        Args:
            state: as another projector's ``state_dict()``. What is not understood is handed back as it came.
        """
        return dict(state)

    @abstractmethod
    def num_tokens(self, num_patches: int) -> int:
        """Q for P patches."""

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """(N,P,Dv) -> (N,Q,Dl)."""


class LanguageModel(nn.Module, ABC):
    """A thin wrapper over a causal language model.

    Attributes:
        hidden_size: Dl.
        vocab_size: V.
    """

    hidden_size: int
    vocab_size: int

    @property
    def tables(self) -> list[nn.Module]:
        """What has a row for each token: the embedding and the output head. Empty where rows cannot be added."""
        return []

    def add_rows(self, vocab_size: int) -> None:
        """Let ``tables`` have ``vocab_size`` rows, where they have fewer."""
        if vocab_size > self.vocab_size:
            raise ConfigError(f'{type(self).__name__}: no rows can be added', fix='set resize_embeddings=False')

    @abstractmethod
    def embed(self, input_ids: Tensor) -> Tensor:
        """(B,L) -> (B,L,Dl)."""

    @abstractmethod
    def hidden(self, inputs_embeds: Tensor, attention_mask: Tensor | None, position_ids: Tensor | None) -> Tensor:
        """(B,L,Dl) -> (B,L,Dl), before the output head."""

    @abstractmethod
    def head(self, hidden: Tensor) -> Tensor:
        """(...,Dl) -> (...,V)."""

    @abstractmethod
    @torch.no_grad()
    def generate(self, inputs_embeds: Tensor, attention_mask: Tensor | None, **kwargs: Any) -> Tensor:
        """(B,L,Dl) -> (B,new) ids, without the prompt."""


def check_parts(**parts: Any) -> None:
    """Each is a built part of its kind, or the config dict of one.

    Raises:
        ConfigError: names every one that is not.
    """
    kinds = {'vision': VisionTower, 'projector': Projector, 'llm': LanguageModel}
    wrong = [
        ConfigError(
            f'{name} = {type(part).__name__ if isinstance(part, nn.Module) else repr(part)}',
            expected=f'a dict with `type`, or a {kinds[name].__name__} (mmft/models/base.py)',
        )
        for name, part in parts.items()
        if not isinstance(part, (kinds[name], Mapping))
    ]
    if wrong:
        raise ConfigError.gather(wrong)


def check_attributes(vision: VisionTower, llm: LanguageModel) -> None:
    """The sizes that the other parts, and the data, are made for.

    Raises:
        ConfigError: names those that a part does not have.
    """
    needed = ((vision, ('hidden_size', 'image_size')), (llm, ('hidden_size', 'vocab_size')))
    wrong = [
        ConfigError(
            f'{type(part).__name__} has no {" and no ".join(missing)}',
            expected='whole numbers, set in __init__ (mmft/models/base.py)',
            fix='write them; docs/configs.md lists what parts of your own need',
        )
        for part, names in needed
        if (missing := [name for name in names if not hasattr(part, name)])
    ]
    if wrong:
        raise ConfigError.gather(wrong)


def check_widths(vision: VisionTower, projector: Projector, llm: LanguageModel) -> None:
    """The projector's ``in_dim`` is the tower's width and ``out_dim`` the language model's, where it has them.

    Raises:
        ConfigError: names the one that does not fit.
    """
    wrong = [
        f'projector.{name} = {getattr(projector, name)}, {part} is {size} wide'
        for name, part, size in (('in_dim', 'vision', vision.hidden_size), ('out_dim', 'llm', llm.hidden_size))
        if getattr(projector, name, size) != size
    ]
    if wrong:
        raise ConfigError.gather([ConfigError(w, fix='leave it out of the config: it is filled in') for w in wrong])
