"""Check a sample of a corpus's vectors against a bundle's candidate tower.

The importer cannot know which towers made the vectors; it records the fingerprint of the bundle
that its user names. The sample shows whether that is right.
"""

from typing import NamedTuple

import numpy as np

from phoenix_server.bundle.bundle import Bundle
from phoenix_server.bundle.towers import Towers
from phoenix_server.corpus.disk.snapshot import Snapshot
from phoenix_server.runtime.devices import all_devices
from phoenix_server.runtime.persistent_cache import forget_unsigned

_SAMPLE = 256
_MIN_COSINE = 0.99  # cosine; bfloat16 gives 0.999, vectors of other towers are near 0


class Sample(NamedTuple):
    """The result of a sample.

    Attributes:
        posts: The number of posts sampled.
        foreign: The number of vectors that are not the candidate tower's.
        worst_post_id: The post whose vector differs most from the tower's.
        worst_cosine: The cosine between these two vectors.
    """

    posts: int
    foreign: int
    worst_post_id: int
    worst_cosine: float


def sample_vectors(snapshot: Snapshot, bundle: Bundle) -> Sample:
    """Encode posts spread evenly over a corpus, and compare the vectors.

    Raises:
        BundleError: The bundle cannot be used.
    """
    forget_unsigned(bundle.trusted)
    columns = snapshot.columns()
    total = len(columns.post_ids)
    rows = np.unique(np.linspace(0, total - 1, min(_SAMPLE, total)).astype(np.int64))
    held = np.empty((len(rows), snapshot.manifest.embedding_size), np.float32)
    start = 0
    for vectors in snapshot.vectors():
        here = (rows >= start) & (rows < start + len(vectors))
        held[here] = vectors[rows[here] - start]
        start += len(vectors)
    towers = Towers(bundle, all_devices()[0])
    towers.compile_candidates(_SAMPLE)
    ids = columns.post_ids[rows], columns.author_ids[rows]
    inputs = bundle.features.candidates(*ids, _SAMPLE)
    given = np.asarray(towers.run_candidate_tower(inputs))[: len(rows)]
    cosines = np.einsum("nd,nd->n", held, given)
    worst = int(cosines.argmin())
    return Sample(
        posts=len(rows),
        foreign=int(np.count_nonzero(~(cosines >= _MIN_COSINE))),
        worst_post_id=int(ids[0][worst]),
        worst_cosine=float(cosines[worst]),
    )
