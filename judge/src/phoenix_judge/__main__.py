"""Runs the command line: `python -m phoenix_judge`."""

from phoenix_judge.cli.main import main

main()
