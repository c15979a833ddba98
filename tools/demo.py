"""`make demo`, `make demo-llava`: see a vision-language model learn ten dishes, on two CPU cores, from nothing."""

import argparse
import sys
from pathlib import Path

from demo_food.stages import FAMILIES


def main() -> int:
    """Run the demo; the exit status is not zero when a step fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('family', nargs='?', choices=FAMILIES, default='internvl2', help='kind of model')
    parser.add_argument('--data', type=Path, default=Path('data/demo_food'), help='where the pictures go')
    parser.add_argument('--work-dir', type=Path, help='where models and report go (default: work_dirs/demo[_llava])')
    args = parser.parse_args()

    from demo_food.recipe import Demo

    from mmft.errors import MMFTError

    try:
        Demo(FAMILIES[args.family], args.data, args.work_dir).run()
    except MMFTError as error:
        print(f'\nerror: {error}', file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
