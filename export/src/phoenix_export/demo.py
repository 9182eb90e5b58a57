"""Write a checkpoint in the published layout whose answers make sense without training.

Each topic has a direction, which is added to the embedding rows of its posts and authors. The user
tower averages the rows of the engagements, the candidate tower those of a post, and the transformer
adds little to a user. So a user who liked posts of a topic gets posts of that topic.

Shapes:
    N  posts        D  embedding width        H  hashes of an id        n  posts of a call
"""

import json
import time
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from phoenix_export.checkpoint import (
    CONFIG,
    ENTITIES,
    MAX_HISTORY,
    MAX_LAYERS,
    MAX_ROWS,
    PARAMS,
    TABLES,
    Checkpoint,
    read_config,
)
from phoenix_export.demo_users import Posts, Sequence, draw_users, user_sequence
from phoenix_export.demo_weights import demo_weights
from phoenix_export.directories import new_directory
from phoenix_model import encode_candidates, hash_ids, unflatten_params

TOPICS = (
    "NFL", "NBA", "MLB", "NHL", "Soccer", "Tennis", "Golf", "Formula 1", "Cricket", "Rugby",
    "Boxing", "Cycling",
)  # fmt: skip
LIKED_TOPIC = "NFL"

_WIDTH = 128
_HASHES = 2
_POSTS_PER_AUTHOR = 20
_LIKED_POSTS = 12  # older than the corpus's posts, and not in the corpus
_WEEK_MS = 7 * 24 * 3600 * 1000
_SNOWFLAKE_EPOCH_MS = 1_288_834_974_657
_ROW_NOISE = 0.8  # length of each row's noise; a topic's direction has length 1
_CHUNK = 1 << 16
_MOST = {
    "posts": MAX_ROWS,
    "vocab": MAX_ROWS,
    "history": MAX_HISTORY,
    "layers": MAX_LAYERS,
    "users": MAX_ROWS,
}

Report = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class DemoSizes:
    """Sizes of a demo. The command line is derived from this class.

    Attributes:
        posts: Posts in the corpus; 537000 as published.
        vocab: Rows of each embedding table; 1000000 as published. With fewer than about twice the
            posts, topics blur because posts share rows.
        history: Longest history; 127 as published.
        layers: Transformer layers; 4 as published.
        users: Users in users.json.
    """

    posts: int = 20_000
    vocab: int = 50_000
    history: int = 127
    layers: int = 2
    users: int = 200

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            least = 2 if name == "vocab" else 1
            if value < least:
                raise ValueError(f"{name}: must be at least {least}, is {value}")
            if name in _MOST and value > _MOST[name]:
                raise ValueError(f"{name}: must be at most {_MOST[name]}, is {value}")


def write_demo(
    out: Path,
    sizes: DemoSizes,
    *,
    seed: int = 0,
    now_ms: int | None = None,
    report: Report = lambda step: None,
) -> None:
    """Write a demo checkpoint, its corpus, an example user and `users.json`.

    Args:
        out: The directory to write; must not exist.
        sizes: Sizes of the demo.
        seed: Seed of everything that is drawn; equal arguments give equal files.
        now_ms: Time of the newest post, in milliseconds since 1970 UTC. Default: now.
        report: Called with each step's name as it begins.

    Raises:
        OutputError: The directory exists or cannot be written.
    """
    rng = np.random.default_rng(seed)
    now_ms = int(time.time() * 1000) if now_ms is None else now_ms
    with new_directory(out) as directory:
        (directory / "retrieval").mkdir()
        report("posts")
        posts, liked = _draw_posts(sizes.posts, now_ms, rng)
        (directory / CONFIG).write_text(json.dumps(_config(sizes, rng), indent=1) + "\n")
        report("weights")
        checkpoint = read_config(directory, "float32")
        weights = demo_weights(checkpoint.model, rng)
        np.savez(directory / PARAMS, allow_pickle=False, **weights)
        report("tables")
        known = Posts._make(map(np.concatenate, zip(posts, liked, strict=True)))
        tables = _write_tables(directory / TABLES, checkpoint, known, rng)
        report("candidate tower")
        vectors = _encode(checkpoint, weights, tables, posts)
        np.savez(
            directory / "sports_corpus.npz",
            allow_pickle=False,
            post_ids=posts.post_ids,
            author_ids=posts.author_ids,
            candidate_representations=vectors,
            topics=np.array(TOPICS)[posts.topics],
        )
        text = json.dumps(_example_sequence(liked, sizes.history, rng), indent=1)
        (directory / "example_sequence.json").write_text(text + "\n")
        users = draw_users(sizes.users, posts, sizes.history, rng)
        lines = ",\n".join(map(json.dumps, users))
        (directory / "users.json").write_text(f"[\n{lines}\n]\n")


def _draw_posts(count: int, now_ms: int, rng: np.random.Generator) -> tuple[Posts, Posts]:
    """Draw one week of posts for the corpus, and older ones that the example user liked."""
    authors = rng.integers(
        1 << 55, 1 << 61, max(count // _POSTS_PER_AUTHOR, len(TOPICS)), np.uint64
    )
    topic_of_author = np.arange(len(authors)) % len(TOPICS)
    written_by = rng.integers(0, len(authors), count)
    liked_by = rng.choice(
        np.flatnonzero(topic_of_author == TOPICS.index(LIKED_TOPIC)), _LIKED_POSTS
    )

    def posts(by: npt.NDArray[np.intp], until_ms: int) -> Posts:
        return Posts(_snowflakes(until_ms, len(by), rng), authors[by], topic_of_author[by])

    return posts(written_by, now_ms), posts(liked_by, now_ms - _WEEK_MS)


def _snowflakes(until_ms: int, count: int, rng: np.random.Generator) -> npt.NDArray[np.uint64]:
    """Draw distinct snowflake ids, ascending, with times in the week before `until_ms`."""
    last = (until_ms - _SNOWFLAKE_EPOCH_MS) << 22
    span = _WEEK_MS << 22
    ids = np.unique(rng.integers(last - span, last, count + count // 1000 + 8, np.uint64))
    return np.sort(rng.permutation(ids)[:count])


def _config(sizes: DemoSizes, rng: np.random.Generator) -> dict[str, object]:
    def constants() -> list[int]:
        return [int(value) for value in rng.integers(1 << 57, 1 << 62, _HASHES)]

    hash_params: dict[str, object] = {}
    for entity in ENTITIES:
        hash_params[f"{entity}_hash_scales"] = [value | 1 for value in constants()]
        hash_params[f"{entity}_biases"] = constants()
        hash_params[f"{entity}_modulus"] = 2**61 - 1
    return {
        "emb_size": _WIDTH,
        "num_layers": sizes.layers,
        "num_heads": 4,
        "key_size": 32,
        "history_seq_len": sizes.history,
        "candidate_seq_len": 64,
        "num_actions": 19,
        **{f"num_{entity}_hashes": _HASHES for entity in ENTITIES},
        "product_surface_vocab_size": 16,
        **{f"{entity}_vocab_size": sizes.vocab for entity in ENTITIES},
        "hash_params": hash_params,
    }


def _write_tables(
    path: Path, checkpoint: Checkpoint, posts: Posts, rng: np.random.Generator
) -> dict[str, npt.NDArray[np.float32]]:
    """Write the embedding tables; return the ones that the candidate tower reads."""
    topics = np.linalg.qr(rng.standard_normal((_WIDTH, len(TOPICS))))[0].T.astype(np.float32)
    planted = {"item": posts.post_ids, "author": posts.author_ids}
    kept: dict[str, npt.NDArray[np.float32]] = {}
    with zipfile.ZipFile(path, "w") as archive:
        for entity in ENTITIES:
            name = f"{entity}_embeddings"
            functions = checkpoint.hashes[entity]
            table = rng.standard_normal((functions.vocab_size, _WIDTH), np.float32)
            table *= _ROW_NOISE / _WIDTH**0.5
            if entity in planted:
                _plant(table, hash_ids(planted[entity], functions), topics[posts.topics])
                kept[name] = table
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, table)
    return kept


def _plant(
    table: npt.NDArray[np.float32], rows: npt.NDArray[np.int32], directions: npt.NDArray[np.float32]
) -> None:
    """Add the direction of each post, [n, D], to its rows, [n, H]; shared rows get the mean."""
    uses = np.bincount(rows.ravel(), minlength=len(table))
    for hashed in rows.T:  # [n]
        np.add.at(table, hashed, directions / uses[hashed, None])


def _encode(
    checkpoint: Checkpoint,
    weights: Mapping[str, npt.NDArray[np.float32]],
    tables: Mapping[str, npt.NDArray[np.float32]],
    posts: Posts,
) -> npt.NDArray[np.float32]:
    """Return the posts' vectors, [N, D]."""
    params = unflatten_params(weights)
    vectors: list[npt.NDArray[np.float32]] = []
    # Gathered at once, the rows would be N*2H*D floats.
    for start in range(0, len(posts.post_ids), _CHUNK):
        chunk = slice(start, start + _CHUNK)
        items = hash_ids(posts.post_ids[chunk], checkpoint.hashes["item"])
        authors = hash_ids(posts.author_ids[chunk], checkpoint.hashes["author"])
        gathered = tables["item_embeddings"][items], tables["author_embeddings"][authors]
        vectors.append(encode_candidates(checkpoint.model, params, *gathered))
    return np.concatenate(vectors)


def _example_sequence(liked: Posts, history: int, rng: np.random.Generator) -> Sequence:
    user_id = int(rng.integers(1 << 55, 1 << 61))
    post_ids, author_ids = liked.post_ids[-history:], liked.author_ids[-history:]
    kinds = np.arange(len(post_ids)) % 3  # all are favorites
    return user_sequence(user_id, post_ids, author_ids, kinds)
