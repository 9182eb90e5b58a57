import errno
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from phoenix_server.errors import StartupError
from phoenix_server.runtime.address import owned_address

_NO_NAME = "it should be unix:path, and the path should end in a file's name"


def refusal(address: str) -> str:
    with pytest.raises(StartupError) as caught, owned_address(address):
        pass
    begin, end = f"cannot listen on {address}: ", "; choose another with --listen"
    message = str(caught.value)
    assert message.startswith(begin) and message.endswith(end)
    return message.removeprefix(begin).removesuffix(end)


@pytest.fixture
def taken() -> Iterator[int]:
    """Return a port of 127.0.0.1 that another program listens on."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        yield other.getsockname()[1]


@pytest.mark.parametrize(
    "address", ["127.0.0.1:0", "localhost:0", "0.0.0.0:0", "[::1]:0", "unix-abstract:phoenix"]
)
def test_an_address_that_is_free_is_owned(address: str) -> None:
    with owned_address(address):
        pass


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0"])
def test_an_address_in_use_is_refused_by_any_of_its_names(host: str, taken: int) -> None:
    assert refusal(f"{host}:{taken}") == "it is in use"


def test_an_address_that_was_just_in_use_is_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            accepted, _ = server.accept()
            accepted.close()  # first, so that this side waits in TIME_WAIT
    with owned_address(f"127.0.0.1:{port}"):
        pass


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("::1:50051", "it should be [::1]:50051"),
        (":50051", "it should be 127.0.0.1:50051, or 0.0.0.0:50051 for all"),
        ("50051", "it should be host:port or unix:path, with a port of at most 65535"),
        ("host:", "it should be host:port or unix:path, with a port of at most 65535"),
        ("host:65536", "it should be host:port or unix:path, with a port of at most 65535"),
        ("host:-1", "it should be host:port or unix:path, with a port of at most 65535"),
        ("host:٣", "it should be host:port or unix:path, with a port of at most 65535"),
        ("192.0.2.1:0", "it is not an address of this machine"),
        (f"{'x' * 70}:0", f"{'x' * 70} is not the name of a machine"),
        *(
            (f"unix:{path}", _NO_NAME)
            for path in ("", ".", "/", "//", "..", "a/..", "\0", "a%00/b")
        ),
        ("unix:\udcff", "it is not valid Unicode"),
        ("unix-abstract:\udcff", "it is not valid Unicode"),
        ("unix:/no/such/directory/socket", "its directory does not exist"),
        ("unix:/etc/passwd/socket", "its directory does not exist"),
    ],
)
def test_what_cannot_be_listened_on_is_told_why(address: str, reason: str) -> None:
    assert refusal(address) == reason


def resolve(monkeypatch: pytest.MonkeyPatch, *hosts: str) -> None:
    """Let every name have these addresses."""
    look_up = socket.getaddrinfo

    def getaddrinfo(_: str, port: int, **options: int) -> list[Any]:
        return [found for host in hosts for found in look_up(host, port, **options)]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


@pytest.mark.parametrize("hosts", [("192.0.2.1", "127.0.0.1"), ("127.0.0.1", "192.0.2.1")])
def test_a_name_may_have_an_address_that_this_machine_has_not(
    monkeypatch: pytest.MonkeyPatch, taken: int, hosts: tuple[str, str]
) -> None:
    resolve(monkeypatch, *hosts)
    with owned_address("localhost:0"):
        pass
    assert refusal(f"localhost:{taken}") == "it is in use"


def test_a_name_without_an_address_of_this_machine_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    resolve(monkeypatch, "192.0.2.1", "203.0.113.1")
    assert refusal("elsewhere:0") == "it is not an address of this machine"


def test_a_name_whose_addresses_are_of_no_supported_kind_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Unsupported(socket.socket):
        def __init__(self, *_: object) -> None:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")

    monkeypatch.setattr(socket, "socket", Unsupported)
    assert refusal("[::1]:0") == "Address family not supported by protocol"


@pytest.mark.parametrize(
    "error",
    [
        socket.gaierror(socket.EAI_NONAME, "Name or service not known"),
        socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"),
        OSError(errno.EMFILE, "Too many open files"),
    ],
)
def test_a_name_that_cannot_be_looked_up_is_refused_with_the_systems_reason(
    monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    def getaddrinfo(*_: object, **options: int) -> None:
        raise error

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    assert refusal("machine:0") == f"looking up machine failed: {error.strerror}"


def test_a_path_that_is_too_long_for_a_socket_is_refused(tmp_path: Path) -> None:
    assert refusal(f"unix:{tmp_path}/{'x' * 200}") == "AF_UNIX path too long"


@pytest.mark.parametrize("scheme", ["unix:", "unix://"])
def test_a_path_is_owned_by_one_server(tmp_path: Path, scheme: str) -> None:
    address = f"{scheme}{tmp_path}/socket"
    with owned_address(address):
        assert refusal(address) == "it is in use"
    with owned_address(address):
        pass


def test_a_socket_of_another_program_is_not_taken(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(tmp_path / "socket"))
        other.listen()
        assert refusal(f"unix:{tmp_path}/socket") == "it is in use"
        assert (tmp_path / "socket").is_socket()


def test_a_socket_with_a_full_queue_is_in_use(tmp_path: Path) -> None:
    with ExitStack() as stack:
        busy, first = [stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(2)]
        busy.bind(str(tmp_path / "socket"))
        busy.listen(0)  # one connection waits; a blocking one more would wait for ever
        first.connect(str(tmp_path / "socket"))
        assert refusal(f"unix:{tmp_path}/socket") == "it is in use"
        assert (tmp_path / "socket").is_socket()


def test_a_socket_of_another_kind_is_not_taken(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(str(tmp_path / "socket"))
        assert refusal(f"unix:{tmp_path}/socket") == "Protocol wrong type for socket"
        assert (tmp_path / "socket").is_socket()


def test_a_socket_that_may_not_be_connected_to_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Forbidden(socket.socket):
        def connect(self, _: object) -> None:
            raise PermissionError(errno.EACCES, "Permission denied")

    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(tmp_path / "socket"))
    monkeypatch.setattr(socket, "socket", Forbidden)
    assert refusal(f"unix:{tmp_path}/socket") == "this user may not listen there"
    assert (tmp_path / "socket").is_socket()


def test_a_socket_that_cannot_be_removed_is_told_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unlink(*_: object, missing_ok: bool) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(tmp_path / "socket"))
    monkeypatch.setattr(Path, "unlink", unlink)
    assert refusal(f"unix:{tmp_path}/socket") == "Operation not permitted"


def test_the_path_is_the_one_that_grpc_reads(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(tmp_path / "a b"))
        other.listen()
        assert refusal(f"unix:{tmp_path}/a%20b") == "it is in use"


def test_a_socket_left_over_by_a_killed_server_is_removed(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(tmp_path / "socket"))
    with owned_address(f"unix:{tmp_path}/socket"):
        assert not (tmp_path / "socket").exists()


def test_a_file_is_not_taken_for_a_socket(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("text")
    assert refusal(f"unix:{tmp_path}/notes") == "a file of this name exists"
    assert (tmp_path / "notes").read_text() == "text"


def test_a_link_that_leads_nowhere_is_not_removed(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    assert refusal(f"unix:{tmp_path}/link") == "a file of this name exists"
    assert (tmp_path / "link").is_symlink()


def test_a_filesystem_without_locks_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", flock)
    assert refusal(f"unix:{tmp_path}/socket") == "No locks available"
