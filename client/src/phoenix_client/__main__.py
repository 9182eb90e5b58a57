"""Runs the command line: `python -m phoenix_client`."""

from phoenix_client.cli.main import main

main()
