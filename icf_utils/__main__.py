"""``python -m icf_utils``: the command line, where the program ``icf-utils`` is not on the PATH."""

from __future__ import annotations

import sys

from icf_utils.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
