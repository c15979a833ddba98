"""A page in the browser to chat with one or two models: ``python tools/webui.py A [B]`` is ``mmft webui A [B]``."""

import sys

from mmft.cli.main import main

if __name__ == '__main__':
    sys.exit(main(['webui', *sys.argv[1:]]))
