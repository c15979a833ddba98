"""Look a data set over: ``python tools/data/check.py CONFIG`` is ``mmft check-data CONFIG``."""

import sys

from mmft.cli.main import main

if __name__ == '__main__':
    sys.exit(main(['check-data', *sys.argv[1:]]))
