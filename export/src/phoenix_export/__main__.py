"""Runs the command line: `python -m phoenix_export`."""

from phoenix_export.cli import main

main()
