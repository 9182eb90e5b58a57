"""The address on which a server listens: checked before, and owned alone while it listens.

gRPC listens on as many addresses of a name as it can get, and takes a Unix socket away from
whoever has it. Here an address that is not wholly free is refused.
"""

import errno
import fcntl
import os
import socket
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote_to_bytes

from phoenix_server.errors import StartupError

_UNIX, _ABSTRACT = "unix:", "unix-abstract:"
_MAX_PORT = 65535
_REASONS = {
    errno.EADDRINUSE: "it is in use",
    errno.EWOULDBLOCK: "it is in use",
    errno.EADDRNOTAVAIL: "it is not an address of this machine",
    errno.EACCES: "this user may not listen there",
    errno.ENOENT: "its directory does not exist",
    errno.ENOTDIR: "its directory does not exist",
}


@contextmanager
def owned_address(address: str) -> Generator[None, None, None]:
    """Check an address, and own it while the block runs.

    Args:
        address: host:port, with brackets around the host if it has colons; unix:path; or
            unix-abstract:name.

    Raises:
        StartupError: It is no address, or not free.
    """
    try:
        address.encode()
    except UnicodeEncodeError:
        raise _refusal(address, "it is not valid Unicode") from None
    if address.startswith(_UNIX):
        with _owned_path(address, _read_path(address)):
            yield
        return
    if not address.startswith(_ABSTRACT):
        _check_free(address, *_split(address))
    yield


def _split(address: str) -> tuple[str, int]:
    """Return host and port."""
    host, colon, port = address.rpartition(":")
    if not (colon and port.isascii() and port.isdecimal() and int(port) <= _MAX_PORT):
        # gRPC would drop the upper bits of a larger number.
        raise _refusal(
            address, f"it should be host:port or unix:path, with a port of at most {_MAX_PORT}"
        )
    if host.startswith("[") and host.endswith("]"):
        return host[1:-1], int(port)
    if not host or ":" in host:
        shown = f"[{host}]:{port}" if host else f"127.0.0.1:{port}, or 0.0.0.0:{port} for all"
        raise _refusal(address, f"it should be {shown}")
    return host, int(port)


def _read_path(address: str) -> Path:
    """Return the path of a socket, as gRPC reads it: %20 stands for a space."""
    given = address.removeprefix(_UNIX).removeprefix("//")
    path = Path(os.fsdecode(unquote_to_bytes(given)))
    if path.name in ("", "..") or "\0" in str(path):
        raise _refusal(address, "it should be unix:path, and the path should end in a file's name")
    return path


def _check_free(address: str, host: str, port: int) -> None:
    """Check that no address of a host is in use, and that one can be bound.

    gRPC passes over the addresses that this machine does not have: `localhost` may have ::1, too,
    where IPv6 is disabled.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except UnicodeError:
        raise _refusal(address, f"{host} is not the name of a machine") from None
    except OSError as exc:  # perhaps it is only for now that no answer comes
        raise _refusal(address, f"looking up {host} failed: {exc.strerror}") from exc
    absent: list[OSError] = []
    for family, kind, protocol, _, sockaddr in found:
        try:
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(sockaddr)
                probe.listen()
        except OSError as exc:
            if exc.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                raise _failure(address, exc) from exc
            absent.append(exc)
    if absent and len(absent) == len(found):
        raise _failure(address, absent[0]) from absent[0]


@contextmanager
def _owned_path(address: str, path: Path) -> Generator[None, None, None]:
    """Own the path of a socket by a lock on a file beside it; remove a socket nobody listens on.

    The file stays: whoever removed it could take it away from the next server.
    """
    lock_path = path.with_name(f"{path.name}.lock")
    try:
        lock = os.open(lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise _failure(address, exc) from exc
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _make_free(address, path)
        except OSError as exc:
            raise _failure(address, exc) from exc
        yield
    finally:
        os.close(lock)


def _make_free(address: str, path: Path) -> None:
    """Remove a socket that nobody listens on.

    Raises:
        OSError: The system does not say whether somebody listens, or the socket stays.
        StartupError: It is in use, or not a socket.
    """
    if os.path.lexists(path) and not path.is_socket():
        raise _refusal(address, "a file of this name exists")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)  # the queue of a busy server may be full: EWOULDBLOCK
        try:
            probe.connect(str(path))
        except FileNotFoundError:
            return
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
    raise _refusal(address, _REASONS[errno.EADDRINUSE])


def _failure(address: str, exc: OSError) -> StartupError:
    return _refusal(address, _REASONS.get(exc.errno or 0, exc.strerror or str(exc)))


def _refusal(address: str, reason: str) -> StartupError:
    return StartupError(f"cannot listen on {address}: {reason}; choose another with --listen")
