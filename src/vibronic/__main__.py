"""``python -m vibronic``."""

import sys

from vibronic.cli import main

sys.exit(main())
