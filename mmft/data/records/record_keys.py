"""The keys of a record, its turns and their parts that no reader reads: those that change what is meant are refused,
those that say nothing about it are known, and all others are reported, so that none is ignored silently."""

from __future__ import annotations

import os.path
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from mmft.errors import DataError
from mmft.words import clipped, near_names, suggested

__all__ = ['HARMLESS', 'NAMES_PICTURES', 'NOTHING', 'PICTURE_KEYS', 'REFUSED', 'SYSTEM_KEYS', 'unread_keys']

PICTURE_KEYS = ('image', 'images', 'image_path', 'image_paths', 'img', 'imgs', 'img_path', 'img_paths', 'image_file',
                'image_files', 'image_url', 'image_urls', 'picture', 'pictures')  # fmt: skip
"""Where the pictures of a record or turn stand, by the names of neighbouring tools; ``image`` and ``images`` first."""

NOTHING = (None, '', [], {})
"""Values of a key that might as well be absent: tables write every column of every row."""

SYSTEM_KEYS = ('system', 'system_prompt', 'system_message')
"""A system message beside the turns."""

_PLACES_AND_SIZES = """
    id ids idx index key uid uuid guid sample_id record_id item_id data_id image_id image_ids img_id question_id
    question_ids answer_id annotation_id ann_id conversation_id conv_id dialog_id turn turn_id round name title
    source sources data_source dataset dataset_name data_name origin subset split part shard domain category
    categories category_name class class_name type kind task tasks task_type task_name subtask question_type
    answer_type topic tag tags keyword keywords lang language locale country
    width height w h widths heights width_list height_list size sizes image_size image_sizes image_width image_height
    img_width img_height resolution aspect_ratio
    license licence copyright url urls coco_url flickr_url source_url author annotator creator user_id worker_id date
    created created_at updated_at timestamp time version model model_name generator finish_reason
    score scores rating quality difficulty length lengths num_tokens token_count num_turns num_images n_images
    hash md5 sha1 sha256 meta metadata meta_info info extra comment comments note notes remark answers
    captions references dish right shown_choices drawn_box
"""
HARMLESS = frozenset(_PLACES_AND_SIZES.split())
"""Keys that say where a record comes from, how large it is or how it is scored, and nothing about what is learnt."""

_MEANINGS = {
    'a video': 'video videos video_path video_paths video_url video_file frames',
    'sound': 'audio audios audio_path audio_paths audio_url audio_file speech sound wav',
    'places in the picture that the text refers to': 'objects bbox bboxes boxes ref refs region regions points polygon '
    'polygons segmentation segments',
    'functions that the model may call, or calls of them': 'tools tool functions function function_call '
    'function_calls tool_calls tool_call_id tool_choice',
    'a preference (DPO, KTO), where mmft trains answers as they are': 'chosen rejected rejected_response '
    'rejected_messages rejected_conversations rejected_images chosen_response preference kto_tag',
    'which part is trained, or how much': 'loss weight weights sample_weight loss_weight loss_scale loss_mask mask '
    'masks masked train training trainable train_detail ignore ignored prefix suffix channel',
    'reasoning that the answer itself does not hold': 'reasoning reasoning_content thinking',
    'earlier turns': 'history',
}
REFUSED = {key: meaning for meaning, keys in _MEANINGS.items() for key in keys.split()}
"""Key -> what it says. A record that holds one is useless without it."""

_MAYBE = {
    'part of the question': 'instruction prompt prompts query question input context passage document documents ocr '
    'options choices',
    'the answer': 'answer response output completion target label labels caption solution rationale explanation',
    'which part of a picture is meant, or how it is shown': 'crop rotate rotation orientation min_pixels max_pixels '
    'max_tiles max_num resized_width resized_height',
    'something else to be seen': 'depth depth_image thumbnail point_cloud pointcloud pcd mesh',
}
MAY_BE = {key: meaning for meaning, keys in _MAYBE.items() for key in keys.split()}
"""Key -> what it may say. Beside turns that hold it too it says nothing new, so it is reported and not refused."""

NAMES_PICTURES = ', which seems to name pictures'
"""How the phrase for a key ends whose values look like paths of pictures."""

_PICTURE_ENDINGS = ('.jpg', '.jpeg', '.png', '.webp', '.gif', '.bmp', '.tif', '.tiff')
_WEIGHTS = ('loss', 'weight', 'loss_weight', 'sample_weight', 'train')
_TURN_KEYS = frozenset({'loss', 'weight'})
_PART_KEYS = frozenset({'type', 'text', 'image', 'path', 'url', 'image_url'})


def unread_keys(
    raw: Mapping[str, Any], turns_key: str, turn_keys: Collection[str], ignore: Collection[str] = ()
) -> tuple[str, ...]:
    """The unknown keys, which nothing reads, each as a phrase for a report.

    A key with nothing in it (``null``, ``''``, ``[]``, ``{}``: tables write every column of every row) counts as
    absent, and so does a weight of 1.

    Args:
        raw: the record, whatever it holds.
        turns_key: where its turns stand.
        turn_keys: what is read of a turn.
        ignore: keys that the user calls harmless, at any depth.

    Raises:
        DataError: a key whose meaning would be lost.
    """
    read = {turns_key, *SYSTEM_KEYS}
    found = list(_unknown(raw, read, '', ignore))
    turns = raw.get(turns_key)
    for number, turn in enumerate(turns if isinstance(turns, list) else (), 1):
        if not isinstance(turn, Mapping):
            continue
        found += _unknown(turn, {*turn_keys, *_TURN_KEYS}, f'turn {number}', ignore)
        content = [turn[key] for key in turn_keys if isinstance(turn.get(key), list)]
        for part in (part for parts in content for part in parts if isinstance(part, Mapping)):
            found += _unknown(part, _PART_KEYS, f'a part of turn {number}', ignore)
    return tuple(dict.fromkeys(found))


def _unknown(level: Mapping[str, Any], read: Collection[str], where: str, ignore: Collection[str]) -> Iterator[str]:
    pictures = [key for key in PICTURE_KEYS if level.get(key) not in NOTHING][:1]
    for key, value in level.items():
        if key in read or key in HARMLESS or key in ignore or _says_nothing(key, value):
            continue
        if key in PICTURE_KEYS and (key in pictures or value == level[pictures[0]] or 'url' in key):
            continue  # an address beside the path is where the picture comes from
        place = f' of {where}' if where else ''
        if key in REFUSED or (key == 'label' and isinstance(value, bool)):
            raise DataError(
                f'the key `{key}`{place} is not read: it holds {REFUSED.get(key, "whether an answer is a good one")}',
                expected='records whose whole meaning is in their turns and pictures',
                fix=_advice(key, where),
            )
        place = ' of a turn' if where.startswith('turn') else ' of a content part' if where else ''
        yield f'`{clipped(key, 40)}`{place}{_hint(key, value, read)}'


def _says_nothing(key: str, value: Any) -> bool:
    """A value that might as well be absent: empty, of nothing but empty values, or a weight of 1."""
    if key in _WEIGHTS and isinstance(value, (bool, int, float)) and value == 1:
        return True
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else (value,)
    return value in ('[]', '{}') or all(one in NOTHING for one in inner)


def _advice(key: str, where: str) -> str:
    if REFUSED.get(key) == REFUSED['loss']:
        first = '`"loss": false` in a turn of the assistant leaves that answer untrained; take this key out'
    elif REFUSED.get(key) == REFUSED['video']:
        first = 'take the record out, or give pictures taken from the video as `images`'
    else:
        first = 'write what it says into the turns, or take the record out'
    return f"{first}; where it says nothing about what is learnt: ignore_keys=['{key}'] of the dataset"


def _hint(key: str, value: Any, read: Collection[str]) -> str:
    values = value if isinstance(value, list) else [value]
    if any(isinstance(v, str) and os.path.splitext(v)[1].lower() in _PICTURE_ENDINGS for v in values):
        return NAMES_PICTURES
    if key in MAY_BE:
        return f', which may be {MAY_BE[key]}'
    near = near_names(key, sorted({*read, *PICTURE_KEYS, *REFUSED}), cutoff=0.8)
    return f' ({suggested(near, form="`{}`".format)})' if near else ''
