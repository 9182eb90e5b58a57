"""Inputs of the towers from ids: hashing, truncation and padding.

Shapes:
    B  users of a batch           H  engagements, padded
    J  hash functions of a kind   n  engagements of a user, or posts of a call
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from phoenix_server.runtime.arrays import I32, I64, U32, U64

_PIECE = 1 << 12  # ids that are hashed at once, so that their hashes stay in cache

HostArrays = Mapping[str, npt.NDArray[np.generic]]


class UserColumns(NamedTuple):
    """One user and their history, oldest engagement first; all columns have length n.

    Attributes:
        user_id: 0 if unknown.
        post_ids: [n] u64.
        author_ids: [n] u64.
        action_masks: [n] u64; bit a is set if the engagement has action a.
        product_surfaces: [n] u32.
    """

    user_id: int
    post_ids: U64
    author_ids: U64
    action_masks: U64
    product_surfaces: U32


@dataclass(frozen=True, kw_only=True)
class HashFunctions:
    """The hash functions from ids of one kind of entity to rows of its embedding table.

    Attributes:
        scales: [J] i64.
        biases: [J] i64.
        modulus: Above 0.
        vocab_size: Number of rows of the table, 2 to 2**31; row 0 is padding.
    """

    scales: I64
    biases: I64
    modulus: int
    vocab_size: int

    def __post_init__(self) -> None:
        if self.scales.shape != self.biases.shape or self.scales.ndim != 1 or not self.scales.size:
            raise ValueError("scales and biases: must be two lists of equal length, not empty")
        if self.modulus < 1 or not 2 <= self.vocab_size <= 2**31:
            raise ValueError("modulus must be positive and vocab_size from 2 to 2**31")

    def rows(self, ids: U64) -> I32:
        """Return the embedding rows of ids: [...] u64 to [..., J] i32, 0 for id 0.

        The arithmetic is signed, 64 bits wide, and wraps around. Remainders are non-negative, as in
        numpy: ((id * scale + bias) mod modulus) mod (vocab_size - 1) + 1.
        """
        rows = np.empty((ids.size, self.scales.size), np.int32)
        flat = ids.reshape(-1)
        for start in range(0, ids.size, _PIECE):
            piece = slice(start, start + _PIECE)
            padding = flat[piece] == 0
            for column, (scale, bias) in enumerate(zip(self.scales, self.biases, strict=True)):
                hashed = flat[piece].view(np.int64) * scale
                hashed += bias
                for modulus in (self.modulus, self.vocab_size - 1):
                    # numpy's // by a scalar is several times as fast as its %.
                    multiple = hashed // modulus
                    multiple *= modulus
                    hashed -= multiple
                hashed += 1
                hashed[padding] = 0
                rows[piece, column] = hashed
        return rows.reshape(*ids.shape, self.scales.size)


@dataclass(frozen=True, kw_only=True)
class FeatureBuilder:
    """Builds the inputs of the towers.

    Attributes:
        user_hash: For user ids.
        item_hash: For post ids.
        author_hash: For author ids.
        history_length: The model's longest history; of longer ones the newest are kept.
    """

    user_hash: HashFunctions
    item_hash: HashFunctions
    author_hash: HashFunctions
    history_length: int

    def newest(self, user: UserColumns) -> UserColumns:
        """Return what the user tower sees of a user: the newest engagements of a long history."""
        newest = slice(-self.history_length, None)
        return UserColumns(
            user_id=user.user_id,
            post_ids=user.post_ids[newest],
            author_ids=user.author_ids[newest],
            action_masks=user.action_masks[newest],
            product_surfaces=user.product_surfaces[newest],
        )

    def user_key(self, user: UserColumns, tower: str) -> bytes:
        """Return 32 bytes that are equal for two users only if a tower sees the same of both.

        They are the BLAKE2b hash, keyed with the tower, of the user id and the four columns. Their
        elements have fixed widths, so the number of bytes says where each column begins.

        Args:
            user: The user.
            tower: The fingerprint of the tower, of at most 64 characters.
        """
        seen = self.newest(user)
        hashed = blake2b(np.uint64(seen.user_id).tobytes(), digest_size=32, key=tower.encode())
        for column in (seen.post_ids, seen.author_ids, seen.action_masks, seen.product_surfaces):
            hashed.update(column.tobytes())
        return hashed.digest()

    def users(
        self, users: Sequence[UserColumns], batch_size: int, length: int
    ) -> dict[str, npt.NDArray[np.generic]]:
        """Return the user tower's inputs, padded to [B, H].

        Args:
            users: At most B, each with at most H engagements after truncation.
            batch_size: B.
            length: H.
        """
        user_ids = np.zeros(batch_size, np.uint64)  # [B]
        post_ids, author_ids, action_masks = np.zeros((3, batch_size, length), np.uint64)  # [B, H]
        surfaces = np.zeros((batch_size, length), np.int32)  # [B, H]
        for i, user in enumerate(map(self.newest, users)):
            n = len(user.post_ids)
            user_ids[i] = user.user_id
            post_ids[i, :n] = user.post_ids
            author_ids[i, :n] = user.author_ids
            action_masks[i, :n] = user.action_masks
            surfaces[i, :n] = user.product_surfaces
        words = action_masks.astype("<u8", copy=False).view("<u4").reshape(batch_size, length, 2)
        return {
            "user_rows": self.user_hash.rows(user_ids),
            "history_post_rows": self.item_hash.rows(post_ids),
            "history_author_rows": self.author_hash.rows(author_ids),
            "history_action_words": words.astype(np.uint32, copy=False),
            "history_product_surfaces": surfaces,
        }

    def candidates(
        self, post_ids: U64, author_ids: U64, batch_size: int
    ) -> dict[str, npt.NDArray[np.generic]]:
        """Return the candidate tower's inputs for [n] u64 ids, padded to `batch_size`."""
        padding = (0, batch_size - len(post_ids))
        return {
            "post_rows": self.item_hash.rows(np.pad(post_ids, padding)),
            "author_rows": self.author_hash.rows(np.pad(author_ids, padding)),
        }
