"""``python -m wsd`` is ``wsd``."""

import sys

from wsd.cli import main

if __name__ == "__main__":
    sys.exit(main())
