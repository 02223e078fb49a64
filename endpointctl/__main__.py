"""`python -m endpointctl`: the same program as the installed command."""

from __future__ import annotations

import sys

from endpointctl.main import main

if __name__ == "__main__":
    sys.exit(main())
