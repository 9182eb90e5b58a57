"""Runs the command line: `python -m phoenix_server`."""

from phoenix_server.cli.main import main

main()
