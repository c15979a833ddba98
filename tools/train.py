"""Fine-tune the model of a config: ``python tools/train.py CONFIG`` is ``mmft train CONFIG``."""

import sys

from mmft.cli.main import main

if __name__ == '__main__':
    sys.exit(main(['train', *sys.argv[1:]]))
