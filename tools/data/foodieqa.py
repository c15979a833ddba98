"""``mmft data foodieqa`` from a clone: ``python tools/data/foodieqa.py ...``."""

import sys

from mmft.cli.main import main

if __name__ == '__main__':
    sys.exit(main(['data', 'foodieqa', *sys.argv[1:]]))
