"""The tables of a journal's database, and whose journal it is."""

import uuid
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import apsw

from phoenix_server.corpus.disk.journal_files import new_database
from phoenix_server.corpus.disk.journal_row import TABLE
from phoenix_server.errors import CorpusError

_FORMAT = 3
_APPLICATION = 0x70686F78  # "phox", which the command `file` shows
_SETTINGS = (
    *("page_size = 16384", f"application_id = {_APPLICATION}", f"user_version = {_FORMAT}"),
    *("journal_mode = WAL", "synchronous = FULL"),
)
_IDENTITY = "CREATE TABLE identity (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT"


def create_database(path: Path, identity: Mapping[str, str]) -> None:
    """Create a journal's database, without changes.

    Args:
        path: The database.
        identity: The corpus to which the journal belongs.

    Raises:
        CorpusError: The disk refuses.
        apsw.Error: SQLite refuses.
    """
    with new_database(path) as fresh, closing(apsw.Connection(str(fresh))) as database:
        for setting in _SETTINGS:
            database.execute(f"PRAGMA {setting}")
        with database:  # a transaction
            database.execute(_IDENTITY)
            database.execute(TABLE)
            rows = [*identity.items(), ("id", uuid.uuid4().hex)]
            database.executemany("INSERT INTO identity VALUES (?, ?)", rows)


def check_database(path: Path, database: apsw.Connection, identity: Mapping[str, str]) -> str:
    """Check whose journal a database is, and return its id.

    Args:
        path: Names the database in errors.
        database: A connection to it.
        identity: The corpus to which the journal should belong.

    Raises:
        CorpusError: It has another format, or belongs to another corpus.
        apsw.Error: It cannot be read.
    """
    version = database.execute("PRAGMA user_version").get
    if version != _FORMAT:
        raise CorpusError(path, f"has format version {version}, this server reads {_FORMAT}")
    found = dict(database.execute("SELECT key, value FROM identity"))
    for key, value in identity.items():
        if found.get(key) != value:
            what = f"belongs to another corpus: its {key} is {found.get(key)}, not {value}"
            raise CorpusError(path, what)
    return found.get("id", "")
