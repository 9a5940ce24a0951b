"""``python -m constropt`` and the script ``constropt``: the door of the command line, which needs the extra ``lab``."""

import sys
from importlib.util import find_spec

# what the command line is made of; the library itself needs none of it
NEEDED = ("typer", "rich", "safetensors", "pyarrow")


def main() -> None:
    """The command line, or one line that says what to install for it, and exit code 2."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        print(f"error: the command line needs {', '.join(missing)}: pip install 'constropt[lab]'", file=sys.stderr)
        raise SystemExit(2)
    from constropt.lab.cli import main as command_line

    command_line()


if __name__ == "__main__":
    main()
