"""Labels of posts, checked before they are sent."""

from __future__ import annotations

from collections.abc import Sequence


def label_column(name: str, labels: Sequence[str]) -> tuple[str, ...]:
    """Return `labels` as a tuple, checked to be text.

    Raises:
        ValueError: They are one string, or one of them is no text. The message starts with `name`.
    """
    check_sequence(labels, name)
    column = tuple(labels)
    for label in column:
        check_label(label, name)
    return column


def check_sequence(labels: object, at: str) -> None:
    """Check that `labels` are not one string, whose letters would be taken for labels.

    Raises:
        ValueError: They are. The message starts with `at`.
    """
    if isinstance(labels, str):
        raise ValueError(f"{at}: must be a sequence of strings, is one string")


def check_label(label: object, at: str) -> None:
    """Check that a label is text.

    Raises:
        ValueError: It is not. The message starts with `at`.
    """
    if not isinstance(label, str):
        raise ValueError(f"{at}: must be strings, has {label!r}")
    try:
        label.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{at}: {label!a} is no text ({error.reason})") from error
