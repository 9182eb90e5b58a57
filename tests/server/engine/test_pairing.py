from pathlib import Path

import jax
import pytest

from phoenix_server.bundle.bundle import Bundle, open_bundle
from phoenix_server.config import EngineConfig
from phoenix_server.corpus.disk.snapshot import Snapshot, open_snapshot
from phoenix_server.engine.engine import Engine
from phoenix_server.engine.pairing import check_pair, generation_name
from phoenix_server.errors import CorpusError
from server.cases import copied, edit_manifest


def test_a_bundle_and_the_corpus_it_was_built_with_fit(bundle: Bundle, snapshot: Snapshot) -> None:
    check_pair(bundle, snapshot)


def test_a_corpus_of_other_towers_is_refused(bundle_bf16: Path, snapshot: Snapshot) -> None:
    bundle = open_bundle(bundle_bf16)
    with pytest.raises(CorpusError) as caught:
        Engine(bundle, snapshot, tuple(jax.devices()[:1]), EngineConfig())
    assert caught.value.path == snapshot.path
    assert caught.value.reason.startswith("was built with other towers (")
    assert snapshot.manifest.tower_fingerprint[:12] in caught.value.reason
    assert bundle.manifest.tower_fingerprint[:12] in caught.value.reason


def test_a_corpus_of_another_width_is_refused(
    bundle: Bundle, snapshot: Snapshot, tmp_path: Path
) -> None:
    corpus = copied(snapshot.path, tmp_path / "corpus")
    edit_manifest(corpus, lambda manifest: manifest.update(embedding_size=64))
    with pytest.raises(CorpusError, match="has vectors of width 64, the towers return width 128"):
        check_pair(bundle, open_snapshot(corpus))


def test_the_generation_names_bundle_and_corpus(
    engine: Engine, bundle: Bundle, snapshot: Snapshot, tmp_path: Path
) -> None:
    assert engine.generation == generation_name(bundle, snapshot)
    copies = (
        open_bundle(copied(bundle.path, tmp_path / "bundle")),
        open_snapshot(copied(snapshot.path, tmp_path / "corpus")),
    )
    assert generation_name(*copies) == engine.generation
    edit_manifest(copies[1].path, lambda m: m.update(created_at="2020-01-01T00:00:00Z"))
    other_corpus = generation_name(*copies)
    edit_manifest(copies[0].path, lambda m: m.update(created_at="2020-01-01T00:00:00Z"))
    assert len({engine.generation, other_corpus, generation_name(*copies)}) == 3
