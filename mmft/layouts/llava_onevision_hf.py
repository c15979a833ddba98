"""transformers' own layout of LLaVA-OneVision: ``LlavaOnevisionForConditionalGeneration``.

LLaVA-NeXT with grids of up to 6 x 6 tiles, whose plane is shrunk to 9 tiles' tokens (``anyres_max_9``), each of several
pictures as one padded tile, and SigLIP's last block. mmft has no videos: their token and files are written, not used.

Source: ``transformers/models/llava_onevision`` 5.23, and the conversion script beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mmft.backends import Support
from mmft.geometry import ONEVISION_GRIDS
from mmft.layouts.llava_encoder import ANYRES_MAX, shrinking
from mmft.layouts.llava_hf import NO_LLAVA
from mmft.layouts.llava_next_hf import LlavaNextHF

if TYPE_CHECKING:
    from mmft.data.encoder import ChatEncoder
    from mmft.layouts.small_files import Contents

__all__ = ['LlavaOnevisionHF']

_VIDEO = '<video>'


class LlavaOnevisionHF(LlavaNextHF):
    """llava-hf's LLaVA-OneVision."""

    architecture = 'LlavaOnevisionForConditionalGeneration'
    model_type, processor = 'llava_onevision', 'LlavaOnevision'
    tilers = ('OneVisionTiler',)
    grids = tuple((rows, columns) for columns, rows in ONEVISION_GRIDS)
    feature_layer, feature_strategy, text_type = -1, 'full', 'qwen2'

    @classmethod
    def support(cls) -> list[Support]:
        why = 'LMDeploy 0.18 has no LLaVA-OneVision'
        return [Support(cls.option, cls.architecture, turbomind=NO_LLAVA, pytorch=why)]

    @classmethod
    def _merge(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        shrink_to = shrinking(config.get('vision_aspect_ratio', f'{ANYRES_MAX}9'))
        return {'merge': {'type': 'AnyResMerge', 'unpad': True, 'newline': True, 'shrink_to': shrink_to}}

    @classmethod
    def _shrink_problems(cls, shrink_to: int | None) -> list[str]:
        return [] if shrink_to else ['a merge without shrink_to: LlavaNextForConditionalGeneration does']

    def _tiling(self) -> dict[str, Any]:
        mean = self._model.get('pixel_mean', (0.5, 0.5, 0.5))
        return {'shrink_to': self._model['merge']['shrink_to'], 'mean': list(mean)}

    def config_json(self, contents: Contents) -> dict[str, Any]:
        config = super().config_json(contents)
        del config['image_seq_length']
        token_id = contents.image_token_id if contents.encoder is None else _video_id(contents.encoder)
        return {
            **config,
            # Where the tokenizer has none, that of pictures: any other might stand in a text.
            'video_token_index': token_id,
            'use_image_newline_parameter': True,
            'vision_aspect_ratio': _aspect(contents),
        }

    def small_files(self, contents: Contents, config: dict[str, Any]) -> dict[str, dict[str, Any]]:
        files, kind = super().small_files(contents, config), {'processor_class': f'{self.processor}Processor'}
        images = files['preprocessor_config.json']
        videos = {'video_processor_type': f'{self.processor}VideoProcessor', **contents.pixel_steps}
        videos['size'] = images['size']
        files |= {'preprocessor_config.json': images | kind, 'video_preprocessor_config.json': videos | kind}
        if contents.encoder is not None:
            files['processor_config.json'] = {
                **kind,
                'image_token': contents.encoder.image_token,
                'video_token': _VIDEO,
                'num_image_tokens': contents.tokens_per_tile + contents.model.vision.dropped_tokens,
                'vision_feature_select_strategy': config['vision_feature_select_strategy'],
                'vision_aspect_ratio': _aspect(contents),
                'image_processor': images,
                'video_processor': videos,
            }
        return files

    def special_tokens(self, encoder: ChatEncoder) -> dict[str, str]:
        known = _VIDEO in encoder.tokenizer.get_added_vocab()
        return {**super().special_tokens(encoder), **({'video_token': _VIDEO} if known else {})}

    def _preprocessor(self, contents: Contents) -> dict[str, Any]:
        settings = super()._preprocessor(contents)
        square = settings.pop('crop_size')
        del settings['do_center_crop']
        return {**settings, 'size': square}


def _video_id(encoder: ChatEncoder) -> int:
    return encoder.tokenizer.get_added_vocab().get(_VIDEO, encoder.image_token_id)


def _aspect(contents: Contents) -> str:
    return f'{ANYRES_MAX}{contents.model.merge.shrink_to}'
