"""Stand-in for the file of this name in OpenGVLab's directories: two configurations inside one."""

from transformers import AutoConfig, PretrainedConfig

from .configuration_intern_vit import InternVisionConfig
from .configuration_internlm2 import InternLM2Config


class InternVLChatConfig(PretrainedConfig):
    """``vision_config`` and ``llm_config`` as objects; a dict there is what LMDeploy fails on without this file."""

    model_type = 'internvl_chat'
    is_composition = True

    def __init__(self, vision_config=None, llm_config=None, **kwargs):
        super().__init__(**kwargs)
        llm = dict(llm_config or {})
        kind = llm.pop('model_type', 'internlm2')
        self.vision_config = InternVisionConfig(**(vision_config or {}))
        self.llm_config = InternLM2Config(**llm) if kind == 'internlm2' else AutoConfig.for_model(kind, **llm)
