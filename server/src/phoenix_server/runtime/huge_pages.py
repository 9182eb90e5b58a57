"""Huge pages for the memory of the process."""

import logging
import os
import platform
import sys
from pathlib import Path

_log = logging.getLogger(__name__)

_KERNEL = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_ONLY_ON_REQUEST = "[madvise]"
_TUNABLES = "GLIBC_TUNABLES"
_HUGE_PAGES = "glibc.malloc.hugetlb"
_MIN_GLIBC = (2, 35)


def restart_with_huge_pages() -> None:
    """Start this program again with huge pages, where the kernel gives them only on request.

    A search reads the whole corpus, and with pages of 4 KiB it waits for their addresses too. XLA
    does not ask for huge pages; glibc does, if the environment says so before the program begins.
    An environment that says anything about it is left alone. Does nothing where the kernel gives
    huge pages to all or to nobody, and with C libraries that cannot ask. To be called before there
    are threads, open files, or children.
    """
    tunables = os.environ.get(_TUNABLES, "")
    if _HUGE_PAGES in tunables or not sys.executable or not _can_ask():
        return
    os.environ[_TUNABLES] = ":".join(filter(None, (tunables, f"{_HUGE_PAGES}=1")))
    try:
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    except OSError as exc:
        _log.warning("there are no huge pages: %s: %s", sys.executable, exc.strerror)


def _can_ask() -> bool:
    """Return whether the kernel gives huge pages on request only, and glibc can request them."""
    library, version = platform.libc_ver()
    if library != "glibc" or tuple(map(int, version.split(".")[:2])) < _MIN_GLIBC:
        return False
    try:
        return _ONLY_ON_REQUEST in _KERNEL.read_text()
    except OSError:
        return False
