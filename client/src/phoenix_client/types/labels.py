"""Check labels before they are sent."""

from __future__ import annotations

from collections.abc import Sequence


def label_column(name: str, labels: Sequence[str]) -> tuple[str, ...]:
    """Return `labels` as a tuple, checked to be text.

    Raises:
        ValueError: They are one string, or one is not valid text. The message starts with `name`.
    """
    check_sequence(labels, name)
    column = tuple(labels)
    for label in column:
        check_text(label, name)
    return column


def check_sequence(labels: object, at: str) -> None:
    """Check that `labels` are not one string, whose letters would count as labels.

    Raises:
        ValueError: They are one string. The message starts with `at`.
    """
    if isinstance(labels, str):
        raise ValueError(f"{at}: must be a sequence of strings, is one string")


def check_text(text: object, at: str) -> None:
    """Check that a value is a string that UTF-8 can encode.

    Raises:
        ValueError: It is not. The message starts with `at`.
    """
    if not isinstance(text, str):
        raise ValueError(f"{at}: must be strings, has {text!r}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{at}: {text!a} is not valid text ({error.reason})") from error
