"""`python -m agora.worker`: the command `agora-worker`."""

import sys

from agora.worker.command import main

sys.exit(main())
