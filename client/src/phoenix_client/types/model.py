"""The model and the corpus that the server serves."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Model:
    """The active generation's model and corpus, and the server's limits.

    Attributes:
        generation: Names this pair of bundle and corpus.
        tower_fingerprint: Hash of all that decides an embedding.
        embedding_size: Width of a representation.
        history_length: Longest history that the model uses, in engagements.
        num_actions: Number of actions that the model knows, from 0.
        product_surface_vocab_size: Number of product surfaces that the model knows, from 0.
        compute_dtype: Element type of the forward pass.
        corpus_rows: Posts in the corpus.
        corpus_dtype: Element type of the corpus's vectors.
        label_names: The distinct labels in the corpus.
        shards: Number of shards of the corpus.
        devices: The devices that hold them.
        max_top_k: Largest `top_k`.
        max_batch_users: Largest number of queries in a batch or a search.
        max_candidates: Largest number of posts in a call that encodes, scores or changes posts.
        max_request_bytes: Size of the largest request.
        max_excluded: Largest number of posts and authors, together, that a `Filter` excludes.
        max_history: Largest number of engagements of a `User`.
        server_version: Version of the server.
        search: What searches the corpus, with the instruction set that it uses.
        search_lack: Why the search is slower than it could be; empty if it is not.
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
    max_history: int
    server_version: str
    search: str
    search_lack: str
