"""What Qwen2.5 is in every size of InternVL2.5 and 3. Not a model by itself: it has no sizes.

Numbers: config.json of OpenGVLab/InternVL3-1B. Of the others, `vocab_size` of InternVL2_5-4B, InternVL3-2B and -8B is
confirmed from published files; the rest is taken to be the same, and a run compares it with the directory.
"""

llm = dict(
    type='Qwen2',
    # Qwen2.5's 151,665 tokens and the nine of InternVL.
    vocab_size=151674,
    max_position_embeddings=32768,
    rms_norm_eps=1e-6,
    rope_theta=1000000.0,
    # Only beyond max_position_embeddings.
    rope_scaling=dict(type='dynamic', factor=2.0),
    bos_token_id=151643,
    eos_token_id=151643,
    # The small Qwen2.5 tie their embeddings; InternVL gives them an output head of their own.
    tie_word_embeddings=False,
)
