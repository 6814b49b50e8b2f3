"""Run the command line: ``python -m nvcatalog.cli``."""

from nvcatalog.cli import main

main()
