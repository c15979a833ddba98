"""Stand-in for the file of this name in OpenGVLab's directories: the fields that LMDeploy reads of the tower."""

from transformers import PretrainedConfig


class InternVisionConfig(PretrainedConfig):
    """Every field is in ``config.json``; there is nothing to fill in."""

    model_type = 'intern_vit_6b'
