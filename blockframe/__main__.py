"""``python -m blockframe``."""

from blockframe.cli import main

if __name__ == "__main__":
    main()
