from __future__ import annotations

import base64
import string
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2

from phoenix_server.errors import (
    BundleError,
    BusyError,
    CorpusError,
    CorpusFullError,
    DeadlineExceededError,
    ForbiddenError,
    GenerationError,
    InvalidRequestError,
    NoGenerationError,
    NoMemoryError,
    NotReadyError,
    OverloadedError,
    PhoenixServerError,
    PostNotFoundError,
    ReadOnlyError,
    StartupError,
    StorageError,
    UnimplementedError,
    Violation,
)
from phoenix_server.service.status import cut, retry_delay, to_status

M = TypeVar("M", bound=Message)


def _detail(status: status_pb2.Status, kind: type[M]) -> list[M]:
    found: list[M] = []
    for packed in status.details:
        found.append(kind())
        assert packed.Unpack(found[-1])
    return found


def _header_bytes(status: status_pb2.Status) -> int:
    """Return what a status takes of a peer's 8 KiB of headers."""
    details = base64.b64encode(status.SerializeToString())
    message = quote(status.message, safe=string.punctuation.replace("%", "") + " ")
    return len(details) + len(message) + 300  # the other headers


def test_an_invalid_request_names_its_fields() -> None:
    violations = [Violation("top_k", "is 0, must be from 1 to 9"), Violation("user", "is odd")]
    status = to_status(InvalidRequestError(violations))
    assert status.code == code_pb2.INVALID_ARGUMENT
    assert status.message == "top_k: is 0, must be from 1 to 9; user: is odd"
    (detail,) = _detail(status, error_details_pb2.BadRequest)
    assert [(v.field, v.description) for v in detail.field_violations] == violations


def test_missing_posts_are_named_as_resources() -> None:
    status = to_status(PostNotFoundError([7, 2**64 - 1]))
    assert status.code == code_pb2.NOT_FOUND
    assert status.message == f"2 of the posts are not in the corpus: 7, {2**64 - 1}"
    resources = _detail(status, error_details_pb2.ResourceInfo)
    assert [r.resource_name for r in resources] == ["7", str(2**64 - 1)]
    assert {(r.resource_type, r.description) for r in resources} == {("post", "not in the corpus")}


def test_a_full_queue_has_a_retry_delay() -> None:
    status = to_status(OverloadedError("the queue is full: 9 users wait", retry_after_s=1.2345))
    assert status.code == code_pb2.RESOURCE_EXHAUSTED
    assert status.message == "the queue is full: 9 users wait"
    (detail,) = _detail(status, error_details_pb2.RetryInfo)
    assert detail.retry_delay == Duration(seconds=1, nanos=234_000_000)


def test_a_request_that_is_late_on_an_idle_server_has_no_retry_delay() -> None:
    exc = OverloadedError("it takes 2 s", retry_after_s=None)
    assert retry_delay(exc) is None
    assert not to_status(exc).details


@pytest.mark.parametrize("retry_after_s", [0.0, 1e-9, 4e-4])
def test_the_retry_delay_is_at_least_a_millisecond(retry_after_s: float) -> None:
    delay = retry_delay(OverloadedError("full", retry_after_s=retry_after_s))
    assert delay == Duration(nanos=1_000_000)


def test_a_server_that_is_not_ready_is_unavailable() -> None:
    status = to_status(NotReadyError("the server is shutting down"))
    assert (status.code, status.message) == (code_pb2.UNAVAILABLE, "the server is shutting down")
    assert not status.details


@pytest.mark.parametrize(
    ("exc", "code"),
    [
        (DeadlineExceededError("reason"), code_pb2.DEADLINE_EXCEEDED),
        (CorpusFullError("reason"), code_pb2.RESOURCE_EXHAUSTED),
        (NoMemoryError("reason"), code_pb2.RESOURCE_EXHAUSTED),
        (ReadOnlyError("reason"), code_pb2.FAILED_PRECONDITION),
        (GenerationError("reason"), code_pb2.FAILED_PRECONDITION),
        (BusyError("reason"), code_pb2.FAILED_PRECONDITION),
        (NoGenerationError("reason"), code_pb2.NOT_FOUND),
        (ForbiddenError("reason"), code_pb2.PERMISSION_DENIED),
        (NotReadyError("reason"), code_pb2.UNAVAILABLE),
    ],
)
def test_each_error_has_its_status_code(exc: Exception, code: int) -> None:
    status = to_status(exc)
    assert (status.code, status.message) == (code, "reason")
    assert not status.details


@pytest.mark.parametrize(
    "exc",
    [
        CorpusError("/data/corpus", "no manifest"),
        StartupError("reason"),
        PhoenixServerError("reason"),
        ValueError("reason"),
    ],
)
def test_what_an_internal_error_hides_is_in_the_log(
    exc: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    assert to_status(exc, "/Service/Method").code == code_pb2.INTERNAL
    (record,) = caplog.records
    assert record.getMessage() == "/Service/Method failed"
    assert record.exc_info is not None
    assert record.exc_info[1] is exc


def test_an_error_that_the_caller_learns_is_not_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    to_status(ReadOnlyError("reason"))
    assert not caplog.records


def test_a_disk_that_is_full_is_reported_by_file_name_alone() -> None:
    status = to_status(StorageError(Path("/data/corpus/journal"), "no space left"))
    assert (status.code, status.message) == (
        code_pb2.RESOURCE_EXHAUSTED,
        "journal: no space left",
    )


@pytest.mark.parametrize(
    "exc",
    [
        RuntimeError("secret"),
        KeyError("secret"),
        BundleError(Path("secret"), "secret"),
        CorpusError(Path("secret"), "secret"),
        StartupError("secret"),
    ],
)
def test_an_unexpected_error_does_not_reveal_its_cause(exc: Exception) -> None:
    status = to_status(exc)
    assert status.code == code_pb2.INTERNAL
    assert status.message == "internal error; the server's log says more"
    assert b"secret" not in status.SerializeToString()


@pytest.mark.parametrize("count", [41, 5000])
def test_thousands_of_missing_posts_fit_into_a_header(count: int) -> None:
    post_ids = [2**64 - 1 - i for i in range(count)]
    status = to_status(PostNotFoundError(post_ids))
    assert _header_bytes(status) < 8192
    assert status.message.startswith(f"{count} of the posts are not in the corpus: ")
    named = [int(r.resource_name) for r in _detail(status, error_details_pb2.ResourceInfo)]
    assert named == post_ids[: len(named)]
    assert len(named) == 40


def test_thousands_of_violations_fit_into_a_header() -> None:
    violations = [
        Violation(f"user.product_surfaces[{i}]", "is 4294967295, the model has surfaces 0 to 15")
        for i in range(5000)
    ]
    status = to_status(InvalidRequestError(violations))
    assert _header_bytes(status) < 8192
    (detail,) = _detail(status, error_details_pb2.BadRequest)
    assert len(detail.field_violations) >= 20
    assert detail.field_violations[0].field == "user.product_surfaces[0]"


@pytest.mark.parametrize(
    "text",
    ["x" * 8000, "%" * 8000, "é" * 8000, "👩‍🚀" * 8000, "\n" * 8000, "\udcff" * 8000, "x%é" * 700],
    ids=lambda text: ascii(text[:3]),
)
@pytest.mark.parametrize("count", [1, 100])
def test_what_a_caller_has_sent_is_cut_to_fit_into_a_header(text: str, count: int) -> None:
    violations = [Violation(f"filter.any_labels[{i}]", f"is {text}") for i in range(count)]
    for exc in (InvalidRequestError(violations), GenerationError(text), NoGenerationError(text)):
        status = to_status(exc)
        assert _header_bytes(status) < 8192
        assert status.message.endswith("…")
        assert "\n" not in status.message
    (detail,) = _detail(to_status(InvalidRequestError(violations)), error_details_pb2.BadRequest)
    assert detail.field_violations[0].field == "filter.any_labels[0]"
    assert detail.field_violations[0].description.startswith("is ")


@pytest.mark.parametrize(
    ("text", "most", "shown"),
    [
        ("plain", 8, "plain"),
        ("10 % of it", 12, "10 % of it"),
        ("x" * 20, 12, "xxx…"),
        ("a\nb", 12, "a\\nb"),
        ("a\x1b[1m", 12, "a\\x1b[1m"),
        ("éé", 12, "éé"),
        ("ééé", 15, "é…"),
    ],
)
def test_a_text_is_cut_by_its_size_in_a_header(text: str, most: int, shown: str) -> None:
    assert cut(text, most) == shown


def test_a_method_that_is_not_implemented_says_so() -> None:
    status = to_status(UnimplementedError("Method not implemented!"))
    assert (status.code, status.message) == (code_pb2.UNIMPLEMENTED, "Method not implemented!")
