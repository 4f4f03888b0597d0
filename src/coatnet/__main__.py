"""`python -m coatnet`."""

import sys

from coatnet.cli import main

if __name__ == "__main__":
    sys.exit(main())
