"""Cases for tests of the server: users, and copies of bundles and corpora with faults."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf import json_format

from phoenix_retrieval.v1.manifest_pb2 import BundleManifest
from phoenix_server.artifacts import MANIFEST, sha256
from phoenix_server.bundle.bundle import tower_fingerprint
from phoenix_server.bundle.features import UserColumns

NUM_ACTIONS = 19  # of the golden model, as the next two
NUM_SURFACES = 16
HISTORY_LENGTH = 127
SMALL_ID = 12_345  # carries no time


def random_user(length: int, seed: int = 0, user_id: int = 7) -> UserColumns:
    """Draw a user with a history of some length."""
    rng = np.random.default_rng([seed, length])
    return UserColumns(
        user_id=user_id,
        post_ids=rng.integers(1, 2**64, length, np.uint64),
        author_ids=rng.integers(1, 2**64, length, np.uint64),
        action_masks=rng.integers(0, 2**NUM_ACTIONS, length, np.uint64),
        product_surfaces=rng.integers(0, NUM_SURFACES, length, np.uint32),
    )


def newest(user: UserColumns, count: int) -> UserColumns:
    """Cut a history to its end."""
    return UserColumns(
        user_id=user.user_id,
        post_ids=user.post_ids[-count:],
        author_ids=user.author_ids[-count:],
        action_masks=user.action_masks[-count:],
        product_surfaces=user.product_surfaces[-count:],
    )


def golden_answers(layout: Path) -> list[dict[str, Any]]:
    """Return the published answers, a user each."""
    return json.loads((layout / "expected.json").read_text())["users"]


def golden_user(answer: dict[str, Any]) -> UserColumns:
    """Return the user of a published answer."""
    sequence = answer["sequence"]
    history = sequence["history"]
    return UserColumns(
        user_id=sequence["user_id"],
        post_ids=np.array([entry["post_id"] for entry in history], np.uint64),
        author_ids=np.array([entry["author_id"] for entry in history], np.uint64),
        action_masks=np.array(
            [sum(1 << int(a) for a, v in entry["actions"].items() if v) for entry in history],
            np.uint64,
        ),
        product_surfaces=np.zeros(len(history), np.uint32),
    )


def copied(source: Path, target: Path) -> Path:
    """Copy a bundle or a corpus, to be spoiled."""
    return Path(shutil.copytree(source, target))


def edit_manifest(directory: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a manifest, as JSON."""
    path = directory / MANIFEST
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def resum(directory: Path) -> None:
    """Make the sizes, sums and fingerprint of a manifest hold again."""

    def change(manifest: dict[str, Any]) -> None:
        for file in manifest["files"]:
            path = directory / file["path"]
            file |= {"size_bytes": path.stat().st_size, "sha256": sha256(path)}
        if "user_tower" in manifest:
            message = json_format.ParseDict(manifest, BundleManifest())
            manifest["tower_fingerprint"] = tower_fingerprint(message)

    edit_manifest(directory, change)


def flip_bit(path: Path, offset: int = -1) -> None:
    """Change one bit of a file, by default in its last byte."""
    contents = bytearray(path.read_bytes())
    contents[offset] ^= 1
    path.write_bytes(contents)


def truncate(path: Path) -> None:
    """Cut the last byte off a file."""
    path.write_bytes(path.read_bytes()[:-1])
