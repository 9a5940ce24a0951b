"""``python -m constropt``: the command line."""

from constropt.cli import main

if __name__ == "__main__":
    main()
