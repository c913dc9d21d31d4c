"""Run the tests on the lowest and on the newest versions, each in an environment of its own.

Usage: python tests/run_versions.py [lowest] [newest] [-- arguments of pytest]

Both, without a name. The environments stay in ``.venv-lowest`` and ``.venv-newest``; the newest
versions are those that pip finds, whatever is pinned elsewhere.
"""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
CONSTRAINTS = {"lowest": ("-c", "constraints-lowest.txt"), "newest": ("--upgrade",)}


def run(name, arguments):
    """Install into an environment, and test there."""
    environment = ROOT / f".venv-{name}"
    python = environment / "bin" / "python"
    for command in (
        [sys.executable, "-m", "venv", environment],
        [python, "-m", "pip", "install", "-q", *CONSTRAINTS[name], "-e", ".[test]"],
        [python, "-m", "pytest", "-n", "2", *arguments],
    ):
        print("$", *command, flush=True)
        subprocess.run(command, cwd=ROOT, check=True)


def main():
    names, _, arguments = " ".join(sys.argv[1:]).partition("--")
    unknown = set(names.split()) - set(CONSTRAINTS)
    if unknown:
        sys.exit(f"{', '.join(unknown)}: give {' or '.join(CONSTRAINTS)}")
    for name in names.split() or CONSTRAINTS:
        run(name, arguments.split())


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)
