from pathlib import Path

import jax
import numpy as np

from phoenix_server.build.sample_check import sample_vectors
from phoenix_server.bundle.bundle import Bundle
from phoenix_server.corpus.disk.snapshot import Snapshot, batch_vectors, open_snapshot, with_vectors
from phoenix_server.corpus.disk.snapshot_writer import new_snapshot


def test_vectors_of_the_candidate_tower_pass(snapshot: Snapshot, bundle: Bundle) -> None:
    sample = sample_vectors(snapshot, bundle)
    assert (sample.posts, sample.foreign) == (256, 0)
    assert sample.worst_cosine > 0.999


def test_with_trusted_keys_no_cache_of_the_environment_is_used(
    snapshot: Snapshot, trusting: Bundle
) -> None:
    assert sample_vectors(snapshot, trusting).foreign == 0
    assert jax.config.values["jax_compilation_cache_dir"] is None


def test_vectors_of_other_posts_are_counted(
    snapshot: Snapshot, bundle: Bundle, tmp_path: Path
) -> None:
    with new_snapshot(
        tmp_path / "corpus",
        source=snapshot.path,
        embedding_size=snapshot.manifest.embedding_size,
        tower_fingerprint=bundle.manifest.tower_fingerprint,
    ) as writer:
        for batch in snapshot.batches():
            writer.write(with_vectors(batch, np.roll(batch_vectors(batch), 1, axis=0)))
    sample = sample_vectors(open_snapshot(tmp_path / "corpus"), bundle)
    assert sample.foreign > 200
    assert sample.worst_cosine < 0.9
    assert sample.worst_post_id in snapshot.columns().post_ids
