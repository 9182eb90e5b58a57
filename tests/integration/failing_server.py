"""`phoenix-server` with a part that fails: failing_server.py PART ARGUMENTS..."""

import sys
from typing import Any

from phoenix_server.batching.executor import Executor
from phoenix_server.cli.main import main
from phoenix_server.service import listener


def _break_transport() -> None:
    take = listener.cygrpc.AioServer._make_request_call_future
    calls = 0

    def fail_later(server: Any, method: bytes | None) -> Any:
        nonlocal calls
        if method is not None and method.endswith(b"/EncodeUser"):
            calls += 1
            if calls > 1:
                raise RuntimeError("broken for a test")
        return take(server, method)

    class Broken(listener._GuardedServer):  # pyright: ignore[reportPrivateUsage]
        _make_request_call_future: Any = fail_later

    listener._GuardedServer = Broken  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]


def _break_thread() -> None:
    def fail(*arguments: Any) -> Any:
        raise RuntimeError("broken for a test")

    Executor._collect = fail  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]


{"transport": _break_transport, "thread": _break_thread}[sys.argv.pop(1)]()
sys.exit(main())
