from pathlib import Path
from typing import Any

import apsw
import pytest


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> list[apsw.Connection]:
    """Return the connections to journals that are opened from now on, once they are created."""
    opened: list[apsw.Connection] = []
    connect = apsw.Connection

    def recorded(*args: Any, **kwargs: Any) -> apsw.Connection:
        connection = connect(*args, **kwargs)
        if not Path(args[0]).name.startswith("."):  # a journal has its name when it is whole
            opened.append(connection)
        return connection

    monkeypatch.setattr(apsw, "Connection", recorded)
    return opened
