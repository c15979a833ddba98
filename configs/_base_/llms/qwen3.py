"""What Qwen3 is in every size of InternVL3.5. Not a model by itself: it has no sizes.

Numbers: Qwen's published configs of Qwen3. That InternVL3.5 keeps the 151,936 rows, max_position_embeddings and an
output head of its own is not confirmed from the published files; a run compares it with the directory.
"""

llm = dict(
    type='Qwen3',
    # More rows than tokens: those of InternVL find room.
    vocab_size=151936,
    num_key_value_heads=8,
    head_dim=128,
    max_position_embeddings=40960,
    rms_norm_eps=1e-6,
    rope_theta=1000000.0,
    bos_token_id=151643,
    eos_token_id=151645,
    # The small Qwen3 tie their embeddings; InternVL gives them an output head of their own.
    tie_word_embeddings=False,
)
