"""Bundles and corpora are opened, shared and closed by one owner."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from phoenix_server.corpus.disk.store import Store
from phoenix_server.errors import ArtifactError, CorpusError
from phoenix_server.generations.sources import Sources
from server.cases import copied, edit_manifest, flip_bit


@pytest.fixture
def corpus(golden_corpus: Path, tmp_path: Path) -> Path:
    return copied(golden_corpus, tmp_path / "corpus")


def is_locked(corpus: Path) -> bool:
    """Return whether a store has the corpus open for changes."""
    try:
        Store(corpus).close()
    except CorpusError:
        return True
    return False


def test_a_corpus_is_shared_and_closed_with_its_last_use(bundle_f32: Path, corpus: Path) -> None:
    sources = Sources()
    first = sources.open(bundle_f32, corpus)
    second = sources.open(bundle_f32, corpus.parent / "." / corpus.name)
    assert (first.is_shared, second.is_shared) == (False, True)
    assert first.store is second.store
    first.verify()
    second.verify()
    sources.release(first.store)
    assert is_locked(corpus)
    sources.release(second.store)
    assert not is_locked(corpus)


def test_a_corpus_is_closed_within_a_context_that_its_other_uses_do_not_enter(
    bundle_f32: Path, corpus: Path
) -> None:
    sources = Sources()
    first, second = (sources.open(bundle_f32, corpus) for _ in range(2))
    for source in (first, second):
        source.verify()
    locked: list[bool] = []

    @contextmanager
    def recorded() -> Generator[None, None, None]:
        locked.append(is_locked(corpus))
        yield
        locked.append(is_locked(corpus))

    sources.release(first.store, recorded())
    assert locked == []
    sources.release(second.store, recorded())
    assert locked == [True, False]


def test_all_are_closed_at_the_end(bundle_f32: Path, corpus: Path) -> None:
    sources = Sources()
    sources.open(bundle_f32, corpus).verify()
    sources.close()
    assert not is_locked(corpus)
    sources.close()


def test_a_corpus_that_is_only_read_is_opened_for_each_generation(
    bundle_f32: Path, corpus: Path
) -> None:
    sources = Sources(read_only=True)
    first, second = (sources.open(bundle_f32, corpus) for _ in range(2))
    assert first.store is not second.store
    assert not (first.is_shared or second.is_shared)
    assert not is_locked(corpus)
    sources.close()


def test_a_corpus_of_other_towers_is_refused_and_closed(
    bundle_bf16: Path, bundle_f32: Path, corpus: Path
) -> None:
    sources = Sources()
    with pytest.raises(CorpusError, match="was built with other towers"):
        sources.open(bundle_bf16, corpus)
    assert not is_locked(corpus)
    served = sources.open(bundle_f32, corpus)
    other = sources.open(bundle_bf16, corpus)  # the corpus has been accepted
    assert (served.has_own_vectors, other.has_own_vectors) == (True, False)
    sources.close()
    with_reencoding = Sources(encode_anew=True)
    assert not with_reencoding.open(bundle_bf16, corpus).has_own_vectors
    with_reencoding.close()


def test_a_damaged_file_is_found_by_verifying(bundle_f32: Path, corpus: Path) -> None:
    flip_bit(corpus / "posts.arrow")
    sources = Sources()
    source = sources.open(bundle_f32, corpus)
    with pytest.raises(ArtifactError, match="was changed"):
        source.verify()
    sources.close()


def test_an_expired_bundle_is_refused_before_the_corpus_is_opened(
    bundle_f32: Path, corpus: Path, tmp_path: Path
) -> None:
    expired = copied(bundle_f32, tmp_path / "expired")
    edit_manifest(expired, lambda manifest: manifest.update(expires_at="2020-01-01T00:00:00Z"))
    with pytest.raises(ArtifactError, match="expired on 2020-01-01"):
        Sources().open(expired, corpus)
    assert not is_locked(corpus)


@pytest.mark.parametrize("target", ["nowhere", "user_tower.jax"])
def test_a_link_that_leads_nowhere_matters_only_in_place_of_a_file(
    bundle_f32: Path, corpus: Path, tmp_path: Path, target: str
) -> None:
    bundle = copied(bundle_f32, tmp_path / "bundle")
    (bundle / "programs" / "unlisted").symlink_to("nowhere")
    sources = Sources()
    sources.open(bundle, corpus).verify()
    tower = bundle / "programs" / "user_tower.jax"
    tower.unlink()
    tower.symlink_to(target)
    with pytest.raises(ArtifactError, match=r"user_tower\.jax: missing"):
        sources.open(bundle, corpus)
    sources.close()
