"""Runs the tests of Go packages, built beforehand, and tells what became of each; arguments are ``binary=source's folder``."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

LINE = re.compile(r"\s*--- (PASS|FAIL|SKIP): (\S+)")
WORDS = {"PASS": "passed", "FAIL": "failed", "SKIP": "skipped"}
TIMEOUT_S = 600
"""Of one package; Go ends all that is left of it then."""


def main() -> int:
    """Return 0 if every package came to its end, whatever its tests said."""
    for argument in sys.argv[1:]:
        binary, _, folder = argument.partition("=")
        command = [binary, "-test.v", f"-test.timeout={TIMEOUT_S}s"]
        with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                found = LINE.match(line)
                if found is not None:
                    print(f"{Path(folder).name}.{found[2]}\t{WORDS[found[1]]}", flush=True)
                else:
                    sys.stderr.write(line.replace("\t", "    "))
        if process.returncode not in (0, 1):
            return process.returncode
    return 0


if __name__ == "__main__":
    sys.exit(main())
