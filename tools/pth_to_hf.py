"""A checkpoint as a model directory: ``python tools/pth_to_hf.py CKPT OUT`` is ``mmft pth_to_hf ...``."""

import sys

from mmft.cli.main import main

if __name__ == '__main__':
    sys.exit(main(['pth_to_hf', *sys.argv[1:]]))
