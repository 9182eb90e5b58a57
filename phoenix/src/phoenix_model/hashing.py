"""Hash ids to rows of their embedding table, on the host.

Glossary of shapes:
    H: hash functions of one kind of id (Hu, Hi or Ha); one row each.
"""

import dataclasses

import numpy as np
import numpy.typing as npt

_INT64_MAX = 2**63 - 1
_INT64_MIN = -(2**63)


@dataclasses.dataclass(frozen=True, kw_only=True)
class HashFunctions:
    """The hash functions of one kind of id: user, post or author.

    Attributes:
        scales: H factors, each within signed 64 bits.
        biases: H summands, each within signed 64 bits.
        modulus: Positive, within signed 64 bits.
        vocab_size: Rows of the table, at least 2; row 0 is padding.
    """

    scales: tuple[int, ...]
    biases: tuple[int, ...]
    modulus: int
    vocab_size: int

    def __post_init__(self) -> None:
        if not self.scales:
            raise ValueError("scales must not be empty")
        if len(self.biases) != len(self.scales):
            raise ValueError(
                f"biases must be as many as scales, got {len(self.biases)} and {len(self.scales)}"
            )
        for field, constants in (("scales", self.scales), ("biases", self.biases)):
            if not all(_INT64_MIN <= constant <= _INT64_MAX for constant in constants):
                raise ValueError(f"{field} must be signed 64-bit integers, got {constants}")
        if not 1 <= self.modulus <= _INT64_MAX:
            raise ValueError(f"modulus must be in [1, 2**63), got {self.modulus}")
        if not 2 <= self.vocab_size <= 2**31:
            raise ValueError(f"vocab_size must be in [2, 2**31], got {self.vocab_size}")


def hash_ids(
    ids: npt.NDArray[np.uint64] | npt.NDArray[np.int64], functions: HashFunctions
) -> npt.NDArray[np.int32]:
    """Hash ids to rows of their table.

    row = `((id*scale + bias) mod modulus) mod (vocab_size-1) + 1` for each function, where product
    and sum wrap around as signed 64-bit integers and `mod` is never negative. Id 0 has row 0.

    Args:
        ids: 64-bit integers of any shape, [...]; from 2**63 on they are negative.
        functions: The H functions and the size of the table.

    Returns:
        Rows [..., H] int32 in [0, vocab_size).

    Raises:
        TypeError: The ids are not 64-bit integers; other types may have lost digits.
    """
    if ids.dtype not in (np.dtype(np.uint64), np.dtype(np.int64)):
        raise TypeError(f"ids must be uint64 or int64, got {ids.dtype}")
    # Unsigned arithmetic wraps by definition; the bits are those of the signed result.
    unsigned = ids.astype(np.uint64)[..., None]
    scales = np.array(functions.scales, np.int64).view(np.uint64)
    biases = np.array(functions.biases, np.int64).view(np.uint64)
    mixed = (unsigned * scales + biases).view(np.int64)  # [..., H]
    residues = np.remainder(mixed, functions.modulus)  # has the sign of the modulus: not negative
    rows = np.remainder(residues, functions.vocab_size - 1) + 1
    return np.where(unsigned == 0, 0, rows).astype(np.int32)
