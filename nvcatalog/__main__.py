"""Run the command line: ``python -m nvcatalog``."""

from __future__ import annotations

from nvcatalog.cli import main

if __name__ == "__main__":
    main()
