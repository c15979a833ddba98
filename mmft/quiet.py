"""Suppresses two lines that other libraries print when they are imported. ``import mmft`` loads it before them.

mmengine 0.10.7, peft 0.14 and accelerate import bitsandbytes (0.50) and deepspeed (0.19) wherever they are installed,
whether or not they are used; both then print irrelevant warnings. No other line is touched.
"""

import logging

_SAID_AT_IMPORT = {
    'bitsandbytes.backends.cpu.ops': 'Failed to load CPU gemm_4bit_forward',
    'DeepSpeed': 'Setting accelerator to CPU',
}

for _name, _start in _SAID_AT_IMPORT.items():
    logging.getLogger(_name).addFilter(lambda record, start=_start: not str(record.msg).startswith(start))
