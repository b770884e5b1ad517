"""`python -m dynstack_probe`."""

import sys

from dynstack_probe.cli import main

sys.exit(main())
