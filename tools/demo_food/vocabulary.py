"""The demo's small tokenizer: byte-level BPE over its own questions and answers, with InternVL2's special tokens.

The files ship in ``tools/demo_food/tokenizer``; ``PYTHONPATH=tools python -m demo_food.vocabulary`` makes them again.
"""

from __future__ import annotations

from pathlib import Path

from demo_food.questions import all_texts

__all__ = ['SPECIAL_TOKENS', 'TOKENIZER_DIR', 'build']

TOKENIZER_DIR = Path(__file__).parent / 'tokenizer'

SPECIAL_TOKENS = (
    '<pad>', '<s>', '</s>', '<|im_start|>', '<|im_end|>', '<|action_end|>', '<|action_start|>', '<|interpreter|>',
    '<|plugin|>', '<img>', '</img>', '<IMG_CONTEXT>', '<quad>', '</quad>', '<ref>', '</ref>', '<box>', '</box>',
    '<video>',
)  # fmt: skip
"""Those of InternVL2-2B's tokenizer, and a pad and a video token, which servers want."""

VOCAB_SIZE = 1024
_LONGEST = 48  # bytes of a token, 16 Chinese characters: the system prompt, in every sample, is then ten tokens


def build(out_dir: str | Path = TOKENIZER_DIR) -> None:
    """Train the tokenizer and write it as transformers reads it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        max_token_length=_LONGEST,
        min_frequency=3,
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    named = {'pad_token': '<pad>', 'bos_token': '<s>', 'eos_token': '</s>'}
    rest = [token for token in SPECIAL_TOKENS if token not in named.values()]
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, additional_special_tokens=rest, clean_up_tokenization_spaces=False, **named
    )
    fast.save_pretrained(str(out_dir))


def _corpus() -> list[str]:
    """The demo's texts, and the system prompt they are asked with (often: it stands in every sample)."""
    from mmft.data.text.templates import build_template

    prompt = build_template('internlm2-chat').text([{'role': 'user', 'content': ''}], add_generation_prompt=True)
    return [*all_texts()] * 4 + [prompt] * 50


if __name__ == '__main__':
    build()
