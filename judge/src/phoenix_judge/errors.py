"""The judge's own exceptions, besides those of the client and of the server's files."""

from collections.abc import Generator
from contextlib import contextmanager

from phoenix_server.errors import PhoenixServerError

_EXTRAS = {"faiss": "faiss", "matplotlib": "plot", "scann": "scann"}


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


@contextmanager
def name_extra(what: str) -> Generator[None, None, None]:
    """Name the extra that installs a package which the block does not find.

    Args:
        what: What needs the package.

    Raises:
        MissingPackageError: A package of an extra is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in _EXTRAS:
            raise
        extra = f"phoenix-judge[{_EXTRAS[package]}]"
        raise MissingPackageError(f"{what} needs {package}: install {extra}") from error
