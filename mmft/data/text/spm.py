"""SentencePiece's ``tokenizer.model``, read as data and rebuilt as a `tokenizers` pipeline.

The file is a protobuf message (google/sentencepiece, src/sentencepiece_model.proto). The few fields that matter are
read here directly, so neither the sentencepiece nor the protobuf package is needed.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from mmft.errors import DataError

__all__ = ['SentencePieceModel', 'read_spm', 'spm_pipeline']

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
_UNIGRAM, _BPE = 1, 2
SPACE = '▁'  # what sentencepiece writes for a space


@dataclass(frozen=True)
class SentencePieceModel:
    """What a ``tokenizer.model`` holds.

    Attributes:
        pieces: (text, score, kind) by id; the kinds are this module's constants.
        bpe: byte-pair encoding; otherwise unigram.
        byte_fallback: a character without a piece becomes its UTF-8 bytes instead of the unknown piece.
        charsmap: compiled Unicode normalisation, empty for none.
        dummy_prefix: a space is put before the text.
        squeeze_spaces: runs of spaces become one, and those at both ends go.
    """

    pieces: list[tuple[str, float, int]]
    bpe: bool
    byte_fallback: bool
    charsmap: bytes
    dummy_prefix: bool
    squeeze_spaces: bool

    @property
    def unknown(self) -> int:
        """Id of the unknown piece."""
        return next((index for index, piece in enumerate(self.pieces) if piece[2] == UNKNOWN), 0)


def read_spm(path: str | Path) -> SentencePieceModel:
    """Read a ``tokenizer.model``.

    Raises:
        DataError: the file is not a whole SentencePiece model, or of a kind (word, char) that no language model uses.
    """
    try:
        return _parse(Path(path).read_bytes())
    except OSError as error:
        raise DataError(f'cannot be read: {error}', file=path) from error
    except (IndexError, struct.error, UnicodeDecodeError, ValueError, TypeError, AttributeError) as error:
        raise DataError(
            f'not a SentencePiece model ({error})',
            file=path,
            expected='a whole tokenizer.model (a git-lfs pointer file is some 130 bytes long)',
            fix='download the file again',
        ) from error


def _parse(data: bytes) -> SentencePieceModel:
    pieces, trainer, normalizer = [], {}, {}
    for number, value in _fields(data):
        if number == 1:
            piece = dict(_fields(value))
            score = struct.unpack('<f', piece[2])[0] if 2 in piece else 0.0
            pieces.append((piece[1].decode(), score, piece.get(3, NORMAL)))
        elif number == 2:
            trainer = dict(_fields(value))
        elif number == 3:
            normalizer = dict(_fields(value))
    kind = trainer.get(3, _UNIGRAM)
    if not pieces or kind not in (_UNIGRAM, _BPE):
        raise ValueError(f'{len(pieces)} pieces, model type {kind}')
    return SentencePieceModel(
        pieces,
        bpe=kind == _BPE,
        byte_fallback=bool(trainer.get(35, False)),
        charsmap=normalizer.get(2, b''),
        dummy_prefix=bool(normalizer.get(3, True)),
        squeeze_spaces=bool(normalizer.get(4, True)),
    )


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(field number, value) of a protobuf message: varints as int, everything else as bytes."""
    position = 0
    while position < len(data):
        key, position = _varint(data, position)
        wire = key & 7
        if wire == 0:
            value, position = _varint(data, position)
        else:
            if wire == 2:
                size, position = _varint(data, position)
            elif wire in (1, 5):
                size = 8 if wire == 1 else 4
            else:
                raise ValueError(f'wire type {wire}')
            value, position = data[position : position + size], position + size
            if position > len(data):
                raise ValueError('it breaks off')
        yield key >> 3, value


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return value, position


def spm_pipeline(model: SentencePieceModel, added: Mapping[int, str], prefix: str) -> Tokenizer:
    """A `tokenizers` pipeline that gives sentencepiece's ids.

    Args:
        model: the sentencepiece model.
        added: id -> text of the tokens that the tokenizer adds. They may lie on ids of the model's unused pieces, as
            InternLM2's ``<|im_end|>`` does, which they then replace.
        prefix: where a space is put in front: ``'always'`` (each stretch of text between special tokens),
            ``'first'`` (the beginning of the text only) or ``'never'``.
    """
    pieces = [(added.get(index, piece), score, kind) for index, (piece, score, kind) in enumerate(model.pieces)]
    if model.bpe:
        tokenizer = Tokenizer(_bpe(model, pieces, added))
    else:
        vocab = [(piece, score) for piece, score, _ in pieces]
        tokenizer = Tokenizer(models.Unigram(vocab, unk_id=model.unknown, byte_fallback=model.byte_fallback))
    steps = [normalizers.Precompiled(model.charsmap)] if model.charsmap else []
    if model.squeeze_spaces:
        steps += [normalizers.Strip(), normalizers.Replace(Regex(' {2,}'), ' ')]
    if prefix == 'always':
        steps.append(normalizers.Prepend(SPACE))
    steps.append(normalizers.Replace(' ', SPACE))
    tokenizer.normalizer = normalizers.Sequence(steps)
    splits = []
    if prefix == 'first':
        splits.append(pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme='first', split=False))
    # User-defined pieces are never merged with their neighbours. Those of several characters are tokens of their own.
    whole = [piece for index, (piece, _, kind) in enumerate(pieces) if kind == USER_DEFINED and index not in added]
    if letters := ''.join(re.escape(piece) for piece in whole if len(piece) == 1):
        splits.append(pre_tokenizers.Split(Regex(f'[{letters}]'), behavior='isolated'))
    if splits:
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(splits)
    words = [piece for piece in whole if len(piece) > 1 and SPACE not in piece]
    tokenizer.add_tokens([AddedToken(word, normalized=False) for word in words])
    chain = [decoders.Replace(SPACE, ' '), decoders.ByteFallback(), decoders.Fuse()]
    if prefix != 'never':
        chain.append(decoders.Strip(' ', 1, 0))
    tokenizer.decoder = decoders.Sequence(chain)
    return tokenizer


def _bpe(model: SentencePieceModel, pieces: list[tuple[str, float, int]], added: Mapping[int, str]) -> models.BPE:
    vocab = {piece: index for index, (piece, _, _) in enumerate(pieces)}
    vocab.update({text: index for index, text in added.items()})
    # sentencepiece joins whichever two neighbours form the piece of the best score, whatever they are themselves.
    mergeable = {piece for index, (piece, _, kind) in enumerate(pieces) if kind == NORMAL and index not in added}
    ranked = []
    for piece, score, kind in pieces:
        if kind == NORMAL and piece in mergeable:
            splits = ((piece[:cut], piece[cut:]) for cut in range(1, len(piece)))
            pairs = [pair for pair in splits if pair[0] in mergeable and pair[1] in mergeable]
            ranked += [(score, pair) for pair in sorted(pairs, key=lambda pair: (vocab[pair[0]], vocab[pair[1]]))]
    ranked.sort(key=lambda item: -item[0])
    return models.BPE(
        vocab=vocab,
        merges=[pair for _, pair in ranked],
        unk_token=pieces[model.unknown][0],
        fuse_unk=True,
        byte_fallback=model.byte_fallback,
    )
