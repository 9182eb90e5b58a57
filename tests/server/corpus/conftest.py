from typing import Any

import apsw
import pytest


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> list[apsw.Connection]:
    """Return the connections to databases that are opened from now on."""
    opened: list[apsw.Connection] = []
    connect = apsw.Connection

    def recorded(*args: Any, **kwargs: Any) -> apsw.Connection:
        opened.append(connect(*args, **kwargs))
        return opened[-1]

    monkeypatch.setattr(apsw, "Connection", recorded)
    return opened
