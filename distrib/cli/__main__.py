"""``python -m distrib.cli`` is ``distrib``."""

import sys

from distrib.cli.main import main

sys.exit(main())
