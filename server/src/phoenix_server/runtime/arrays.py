"""Types of numpy arrays, which are on the host, by what docstrings call their elements: [n] u64."""

import numpy as np
import numpy.typing as npt

Bools = npt.NDArray[np.bool_]
F32 = npt.NDArray[np.float32]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]
U32 = npt.NDArray[np.uint32]
U64 = npt.NDArray[np.uint64]
