"""Users: an id, and a history of engagements."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from enum import IntEnum, unique
from typing import NamedTuple

from phoenix_client.types.columns import Columns, u32_column, u64_column

MAX_ACTION = 63
"""Actions are bits of a 64-bit mask."""


@unique
class Action(IntEnum):
    """What a user did with a post: `phoenix_retrieval.v1.Action` without the prefix.

    The published model names six of its 19 actions; the others are named by their index.
    """

    UNSPECIFIED = 0
    FAVORITE = 1
    INDEX_2 = 2
    INDEX_3 = 3
    REPLY = 4
    QUOTE = 5
    REPOST = 6
    INDEX_7 = 7
    INDEX_8 = 8
    INDEX_9 = 9
    INDEX_10 = 10
    DWELL = 11
    INDEX_12 = 12
    VIDEO_QUALITY_VIEW = 13
    INDEX_14 = 14
    INDEX_15 = 15
    INDEX_16 = 16
    INDEX_17 = 17
    INDEX_18 = 18


# What a set bit reads as: an Action, or its number if a later model uses a bit unknown here.
_ACTIONS: tuple[int, ...] = (*Action, *range(len(Action), MAX_ACTION + 1))


def action_mask(actions: Iterable[int]) -> int:
    """Return the mask in which bit a is set for every action a.

    Raises:
        ValueError: An action lies outside 0 to 63.
    """
    mask = 0
    for action in actions:
        if not 0 <= action <= MAX_ACTION:
            raise ValueError(f"action {action}: must be from 0 to {MAX_ACTION}")
        mask |= 1 << action
    return mask


def actions_of(mask: int) -> frozenset[int]:
    """Return the actions whose bits are set in `mask`, the inverse of `action_mask`."""
    return frozenset(action for action in _ACTIONS if mask >> action & 1)


class Engagement(NamedTuple):
    """An engagement of a user with a post.

    Attributes:
        post_id: The post; never 0.
        author_id: The post's author; never 0.
        actions: What the user did: `Action`s, or numbers up to 63 for a model with more actions.
        product_surface: Where in the product it happened.
    """

    post_id: int
    author_id: int
    actions: AbstractSet[int] = frozenset()
    product_surface: int = 0


@dataclass(frozen=True)
class History(Columns[Engagement]):
    """A user's engagements, oldest first, in columns of equal length.

    Indexing and iterating build `Engagement`s; a slice is a history. Histories are equal if their
    engagements are.

    Attributes:
        post_ids: Ids of the posts; never 0.
        author_ids: Ids of the posts' authors; never 0.
        action_masks: What the user did: bit a is set for action a.
        product_surfaces: Where in the product it happened. Empty means 0 for all.

    Raises:
        ValueError: A column has another length, or a value is not an unsigned integer: of 64 bits
            for ids and masks, of 32 for product surfaces.
    """

    _may_be_empty = frozenset({"product_surfaces"})

    post_ids: Sequence[int] = ()
    author_ids: Sequence[int] = ()
    action_masks: Sequence[int] = ()
    product_surfaces: Sequence[int] = ()

    def __post_init__(self) -> None:
        """Turn the columns into tuples and check them."""
        for name in ("post_ids", "author_ids", "action_masks"):
            object.__setattr__(self, name, u64_column(name, getattr(self, name)))
        surfaces = u32_column("product_surfaces", self.product_surfaces)
        object.__setattr__(self, "product_surfaces", surfaces)
        super().__post_init__()
        if not any(surfaces):  # one form, so that equal histories compare equal
            object.__setattr__(self, "product_surfaces", ())

    @classmethod
    def from_engagements(cls, engagements: Iterable[Engagement]) -> History:
        """Build a history from rows, oldest first.

        Raises:
            ValueError: An id, an action or a product surface is out of range.
        """
        rows = tuple(engagements)
        return cls(
            post_ids=[row.post_id for row in rows],
            author_ids=[row.author_id for row in rows],
            action_masks=[action_mask(row.actions) for row in rows],
            product_surfaces=[row.product_surface for row in rows],
        )

    def row(self, index: int, /) -> Engagement:
        """Build the engagement at `index`."""
        return Engagement(
            post_id=self.post_ids[index],
            author_id=self.author_ids[index],
            actions=actions_of(self.action_masks[index]),
            product_surface=self.product_surfaces[index] if self.product_surfaces else 0,
        )


@dataclass(frozen=True)
class User:
    """A user. The server rejects a user with neither an id nor a history: it has no representation.

    Attributes:
        user_id: The user's id. 0 means unknown: the answer then depends on the history alone.
        history: What the user did, oldest first. Of one that is longer than the model's, the
            server uses the newest engagements.

    Raises:
        ValueError: `user_id` is not an unsigned 64-bit integer.
    """

    user_id: int = 0
    history: History = History()

    def __post_init__(self) -> None:
        """Check the id."""
        u64_column("user_id", (self.user_id,))
