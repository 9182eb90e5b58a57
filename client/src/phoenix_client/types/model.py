"""What the server serves."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Model:
    """The model and the corpus that answer now, and what the server accepts.

    Attributes:
        generation: Names this pair of bundle and corpus.
        tower_fingerprint: Hash of all that decides an embedding.
        embedding_size: Width of a representation.
        history_length: Longest history that counts, in engagements.
        num_actions: Actions that the model knows, from 0.
        product_surface_vocab_size: Product surfaces that the model knows, from 0.
        compute_dtype: Element type of the forward pass.
        corpus_rows: Posts in the corpus.
        corpus_dtype: Element type of the corpus's vectors.
        label_names: The distinct labels in the corpus.
        shards: How many shards the corpus is cut into.
        devices: The devices that hold them.
        max_top_k: Largest `top_k`.
        max_batch_users: Most queries in a batch.
        max_candidates: Most posts to encode or to score at once.
        max_request_bytes: Largest request.
        max_excluded: Most posts and authors that a `Filter` excludes, together.
        server_version: Version of the server.
    """

    generation: str
    tower_fingerprint: str
    embedding_size: int
    history_length: int
    num_actions: int
    product_surface_vocab_size: int
    compute_dtype: str
    corpus_rows: int
    corpus_dtype: str
    label_names: tuple[str, ...]
    shards: int
    devices: tuple[str, ...]
    max_top_k: int
    max_batch_users: int
    max_candidates: int
    max_request_bytes: int
    max_excluded: int
    server_version: str
