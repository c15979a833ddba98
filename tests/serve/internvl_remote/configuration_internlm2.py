"""Stand-in for the file of this name in OpenGVLab's directories: InternLM2's fields as attributes."""

from transformers import PretrainedConfig


class InternLM2Config(PretrainedConfig):
    """Every field is in ``config.json``; the rope keeps the names of transformers 4, as in the original."""

    model_type = 'internlm2'

    def __init__(self, rope_theta=10000.0, rope_scaling=None, **kwargs):
        self.rope_theta = rope_theta
        self.rope_scaling = rope_scaling
        super().__init__(**kwargs)
