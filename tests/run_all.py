"""Run every check that a change has to pass: lint, format, types, tests, doctests.

Then, where there are wheels of them, some tests on the lowest versions, in an environment of their
own. Used by the README's second command and by continuous integration.
"""

import subprocess
import sys
from pathlib import Path

CHECKS = [
    ("-m", "ruff", "check", "."),
    ("-m", "ruff", "format", "--check", "."),
    ("-m", "mypy"),
    ("-m", "pytest", "-n", "2"),
]
ON_LOWEST = ("golden", "classifier", "classifier_cv", "search", "sklearn_compliance")
if sys.version_info < (3, 13):
    rooms = [f"tests/test_{room}.py" for room in ON_LOWEST]
    CHECKS.append(("tests/run_versions.py", "lowest", "--", "-q", *rooms))


def main():
    root = Path(__file__).parent.parent
    for check in CHECKS:
        print("$ python", *check, flush=True)
        subprocess.run([sys.executable, *check], cwd=root, check=True)


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)
