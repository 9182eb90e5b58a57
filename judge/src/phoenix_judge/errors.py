"""What can go wrong, besides the errors of the client and of the server's files."""

from phoenix_server.errors import PhoenixServerError


class IndexOptionError(PhoenixServerError):
    """An index to export cannot be made as an option says.

    Attributes:
        option: The option at fault, as the command line has it.
    """

    def __init__(self, option: str, reason: str) -> None:
        super().__init__(f"{option}: {reason}")
        self.option = option


class MissingPackageError(ImportError):
    """A package that an extra of `phoenix-judge` installs is missing; the message names both."""
