"""`model.json`: what a manifest says of the model, under the manifest's own sums.

A manifest lists the sums of all other files, but no sum covers the manifest. So the exporter writes
its fields a second time, to a file that has a sum: all but `files` and `tower_fingerprint`, which
the files themselves prove, and the times of the export, which are no property of the model. The
server believes a manifest only if the two are equal.
"""

from pathlib import Path
from typing import Any

from google.protobuf import json_format
from google.protobuf.message import Message

from phoenix_retrieval.v1.manifest_pb2 import BundleManifest
from phoenix_server.artifacts import MANIFEST
from phoenix_server.errors import BundleError

MODEL = "model.json"
_LEFT_OUT = ("files", "tower_fingerprint", "created_at", "expires_at")
_MAX_SHOWN = 80  # characters of a value


def check_model(directory: Path, manifest: BundleManifest) -> None:
    """Check a manifest against `model.json`, whose sum has been verified.

    Raises:
        BundleError: They differ, and names the first field that does; or `model.json` cannot be
            read.
    """
    path, expected = directory / MODEL, BundleManifest()
    try:
        json_format.Parse(path.read_text(encoding="utf-8"), expected)
    except (json_format.ParseError, UnicodeDecodeError, OSError) as exc:
        raise BundleError(path, f"cannot be read: {exc}") from exc
    claimed = BundleManifest()
    claimed.CopyFrom(manifest)
    for name in _LEFT_OUT:
        claimed.ClearField(name)
    if what := _find_difference(claimed, expected, ""):
        raise BundleError(directory / MANIFEST, what)


def _find_difference(claimed: Message, expected: Message, prefix: str) -> str | None:
    """Describe the first field that differs; None if there is none."""
    for field in claimed.DESCRIPTOR.fields:
        ours: Any = getattr(claimed, field.name)
        theirs: Any = getattr(expected, field.name)
        name = f"{prefix}{field.name}"
        if field.message_type is None:
            if ours != theirs:
                return f"{name} is {_shown(ours)}, but {MODEL} has {_shown(theirs)}"
            continue
        if not field.is_repeated:
            pairs = [(name, ours, theirs)]
        elif len(ours) != len(theirs):
            return f"{name} has {len(ours)} entries, but {MODEL} has {len(theirs)}"
        else:
            both = enumerate(zip(ours, theirs, strict=True))
            pairs = [(f"{name}[{i}]", one, other) for i, (one, other) in both]
        for inner, one, other in pairs:
            if what := _find_difference(one, other, f"{inner}."):
                return what
    return None


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."
