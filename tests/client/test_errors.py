from __future__ import annotations

import pickle

import grpc
import pytest

import phoenix_client
from phoenix_client import errors

Code = grpc.StatusCode


def _all_subclasses(cls: type) -> set[type]:
    return {cls}.union(*map(_all_subclasses, cls.__subclasses__()))


def test_every_class_is_public_and_in_the_tree() -> None:
    tree = errors.__doc__ or ""
    for cls in _all_subclasses(errors.PhoenixClientError) | _all_subclasses(errors.FileError):
        assert cls.__name__ in tree
        assert getattr(phoenix_client, cls.__name__) is cls


@pytest.mark.parametrize(
    "error",
    [
        errors.InvalidArgumentError("m", field_violations=(errors.FieldViolation("f", "d"),)),
        errors.ResourceExhaustedError("m", retry_after_s=0.5, retryable=True),
        errors.UnknownStatusError("m", code=Code.ABORTED),
        errors.SequenceError("file", "history[3]", "is missing"),
        errors.PostsFileError("file", "line 3: post_id", "is missing"),
    ],
)
def test_exceptions_survive_pickling(error: Exception) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert vars(copy) == vars(error)
    assert str(copy) == str(error)
