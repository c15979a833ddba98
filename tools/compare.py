"""Two models, the same questions, one page: ``python tools/compare.py A B DATASET`` is ``mmft compare A B DATASET``."""

import sys

from mmft.cli.main import main

if __name__ == '__main__':
    sys.exit(main(['compare', *sys.argv[1:]]))
