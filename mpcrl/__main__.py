"""`python -m mpcrl` is the command `mpcrl`."""

from __future__ import annotations

import sys

from mpcrl.cli import main

sys.exit(main())
