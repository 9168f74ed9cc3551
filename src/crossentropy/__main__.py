"""`python -m crossentropy` is the command `crossentropy`, where scripts are not on the path."""

import sys

from .evaluation.cli import main

if __name__ == "__main__":
    sys.exit(main())
