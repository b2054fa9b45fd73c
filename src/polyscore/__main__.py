"""`python -m polyscore`: the command line."""

from __future__ import annotations

import sys

from polyscore.cli import main

sys.exit(main())
