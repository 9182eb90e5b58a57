from __future__ import annotations

from typing import Any

import pytest

from phoenix_client.types.labels import label_column


def test_labels_become_a_tuple() -> None:
    assert label_column("labels", ["news", "caf\u00e9", ""]) == ("news", "caf\u00e9", "")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("news", "labels: must be a sequence of strings, is one string"),
        (["news", 5], "labels: must be strings, has 5"),
        ([b"news"], "labels: must be strings, has b'news'"),
        (["\ud800"], r"labels: '\\ud800' is not valid text"),
    ],
)
def test_what_is_not_a_list_of_texts_is_refused(labels: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        label_column("labels", labels)
