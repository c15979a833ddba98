"""Language models: thin wrappers over transformers' causal language models."""

from mmft.models.language.causal_lm import CausalLM
from mmft.models.language.families import Gemma, InternLM2, Llama, MiniCPM, Mistral, Phi, Phi3, Qwen2, StableLM

__all__ = ['CausalLM', 'Gemma', 'InternLM2', 'Llama', 'MiniCPM', 'Mistral', 'Phi', 'Phi3', 'Qwen2', 'StableLM']
