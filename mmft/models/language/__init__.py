"""Language models: thin skins over transformers' causal language models."""

from mmft.models.language.causal_lm import CausalLM, InternLM2, Llama, Phi3, Qwen2

__all__ = ['CausalLM', 'InternLM2', 'Llama', 'Phi3', 'Qwen2']
