"""`python -m vpntest`."""

import sys

from vpntest.cli import main

sys.exit(main())
