"""`python -m benchmarks.gpu`: see campaign.py."""

import sys

from benchmarks.gpu.campaign import main

sys.exit(main())
