"""transformers' own layout of LLaVA-NeXT: ``LlavaNextForConditionalGeneration``.

Source: ``transformers/models/llava_next`` 5.23.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mmft.backends import Support
from mmft.geometry import LLAVA_NEXT_GRIDS
from mmft.layouts.llava_hf import NO_LLAVA, LlavaHF
from mmft.registry import IMAGE_PROCESSORS

if TYPE_CHECKING:
    from mmft.files.directory import ModelDirectory
    from mmft.layouts.small_files import Contents

__all__ = ['LlavaNextHF']


class LlavaNextHF(LlavaHF):
    """llava-hf's LLaVA-NeXT (1.6): AnyRes tiles, their padding cut off, a newline after each row."""

    architecture = 'LlavaNextForConditionalGeneration'
    model_type, processor = 'llava_next', 'LlavaNext'
    tilers = ('AnyResTiler',)
    grids = LLAVA_NEXT_GRIDS  # (rows, columns) of the configuration that names none

    @classmethod
    def support(cls) -> list[Support]:
        why = "LMDeploy 0.18's LLaVA-NeXT fails under transformers 5"
        return [Support(cls.option, cls.architecture, turbomind=NO_LLAVA, pytorch=why)]

    @classmethod
    def _merge(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        return {'merge': {'type': 'AnyResMerge', 'unpad': True, 'newline': True}}

    @classmethod
    def _merge_problems(cls, merge: dict[str, Any] | None) -> list[str]:
        if not (merge and merge.get('unpad', True) and merge.get('newline', True)):
            return ['tiles that are not merged with unpad and newline: it does nothing else']
        return cls._shrink_problems(merge.get('shrink_to'))

    @classmethod
    def _shrink_problems(cls, shrink_to: int | None) -> list[str]:
        return [f'a merge with shrink_to={shrink_to}: LlavaOnevisionForConditionalGeneration does'] if shrink_to else []

    def _image_processor(self, directory: ModelDirectory) -> dict[str, Any]:
        # transformers counts (height, width), and its list stands in this order where the config names none.
        pairs, side = self.options.get('image_grid_pinpoints'), self._model['vision']['image_size']
        if pairs is not None:
            pairs = [[width, height] for height, width in pairs]
        else:
            pairs = [[across * side, down * side] for down, across in self.grids]
        return {'type': self.tilers[0], 'grid_pinpoints': pairs, 'tile_size': side, **self._tiling()}

    def _tiling(self) -> dict[str, Any]:
        """What else there is to say of its image processor."""
        return {'mode': 'spatial_unpad'}

    def _sizes(self, contents: Contents) -> dict[str, Any]:
        # transformers counts (height, width).
        processor = IMAGE_PROCESSORS.build(contents.tiler or {'type': self.tilers[0], 'tile_size': contents.side})
        return {'image_grid_pinpoints': [[height, width] for width, height in processor.grid_pinpoints]}
