"""What ``config.json`` calls each language model: one table for reading and writing."""

from __future__ import annotations

__all__ = ['ARCHITECTURES', 'LLM_TYPES']

ARCHITECTURES: dict[str, tuple[str, str]] = {
    'Llama': ('LlamaForCausalLM', 'llama'),
    'Qwen2': ('Qwen2ForCausalLM', 'qwen2'),
    'Phi3': ('Phi3ForCausalLM', 'phi3'),
    'InternLM2': ('InternLM2ForCausalLM', 'internlm2'),
    'Mistral': ('MistralForCausalLM', 'mistral'),
    'Phi': ('PhiForCausalLM', 'phi'),
    'StableLM': ('StableLmForCausalLM', 'stablelm'),
    'Gemma': ('GemmaForCausalLM', 'gemma'),
    'MiniCPM': ('MiniCPMForCausalLM', 'minicpm'),
}
"""mmft's type -> ``architectures[0]`` and ``model_type`` of the family's own directories."""

LLM_TYPES: dict[str, str] = {architecture: kind for kind, (architecture, _) in ARCHITECTURES.items()}
"""``architectures[0]`` -> mmft's type."""
