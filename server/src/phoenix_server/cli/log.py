"""The log on standard error: one line for each record, whatever the record holds."""

import logging
from typing import Any

from phoenix_server.errors import escape_controls


class _LineFormatter(logging.Formatter):
    """Escapes control characters of messages and tracebacks, and indents tracebacks.

    A caller's text, such as the name of a method, cannot forge a line.
    """

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = escape_controls(record.message)
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:
        return _indented(super().formatException(ei))

    def formatStack(self, stack_info: str) -> str:
        return _indented(super().formatStack(stack_info))


def _indented(text: str) -> str:
    """Return lines that none can take for records, without other control characters."""
    return "\n".join(f"    {escape_controls(line)}" for line in text.split("\n"))


def write_log(level: int) -> None:
    """Write records from a level on to standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(_LineFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=level, handlers=[handler])
