"""Run every check that a change has to pass: lint, format, types, tests, doctests.

Used by the README's second command and by continuous integration.
"""

import subprocess
import sys
from pathlib import Path

CHECKS = (
    ("ruff", "check", "."),
    ("ruff", "format", "--check", "."),
    ("mypy",),
    ("pytest", "-n", "2"),
)


def main():
    root = Path(__file__).parent.parent
    for check in CHECKS:
        print("$", *check, flush=True)
        subprocess.run([sys.executable, "-m", *check], cwd=root, check=True)


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)
