"""The program `phoenix-server`; also `python -m phoenix_server`."""

import sys

from phoenix_server.runtime.huge_pages import restart_with_huge_pages


def run() -> None:
    """Run the command line in this process, which is all its own."""
    if sys.argv[1:2] == ["serve"]:
        restart_with_huge_pages()
    from phoenix_server.cli.main import main  # takes a while to import

    main()


if __name__ == "__main__":
    run()
