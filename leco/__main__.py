"""python -m leco"""

import sys

from leco.cli import main

sys.exit(main())
