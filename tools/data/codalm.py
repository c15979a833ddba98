"""``mmft data codalm`` from a clone: ``python tools/data/codalm.py ...``."""

import sys

from mmft.cli.main import main

if __name__ == '__main__':
    sys.exit(main(['data', 'codalm', *sys.argv[1:]]))
