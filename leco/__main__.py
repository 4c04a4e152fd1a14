"""python -m leco"""

import sys

from leco.command.cli import main

sys.exit(main())
