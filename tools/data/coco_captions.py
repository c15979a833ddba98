"""``mmft data coco_captions`` from a clone: ``python tools/data/coco_captions.py ...``."""

import sys

from mmft.cli.main import main

if __name__ == '__main__':
    sys.exit(main(['data', 'coco_captions', *sys.argv[1:]]))
