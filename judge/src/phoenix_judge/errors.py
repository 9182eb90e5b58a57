"""The judge's own exceptions, besides those of the client and of the server's files."""

from phoenix_server.errors import PhoenixServerError


class IndexOptionError(PhoenixServerError):
    """An option of the index to export cannot be satisfied.

    Attributes:
        option: The option, as on the command line.
    """

    def __init__(self, option: str, reason: str) -> None:
        super().__init__(f"{option}: {reason}")
        self.option = option


class MissingPackageError(ImportError):
    """A package of an extra of `phoenix-judge` is not installed; the message names both."""
