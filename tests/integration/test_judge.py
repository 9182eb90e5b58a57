"""Indexes of a real corpus, graded by a real server."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

from commands import outcome_of
from integration.conftest import SMALL
from integration.wire import connect
from phoenix_client import Post, User, load_sequences
from phoenix_judge.cli.main import main
from phoenix_judge.errors import MissingPackageError
from phoenix_judge.export import export_index
from phoenix_judge.index_builders import FaissOptions, ScannOptions
from phoenix_server.build.import_npz import import_corpus
from phoenix_server.bundle.bundle import open_bundle
from phoenix_server.config import ServeConfig
from server.cases import copied
from servers import run_server

K = 20
Judge = Callable[..., Any]


@pytest.fixture(scope="module")
def users(golden_layout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file of the golden users, and of 20 of whom only the id is known."""
    golden = json.loads((golden_layout / "expected.json").read_text())["users"]
    sequences = [answer["sequence"] for answer in golden]
    sequences += [{"user_id": number, "history": []} for number in range(1, 21)]
    path = tmp_path_factory.mktemp("users") / "users.json"
    path.write_text(json.dumps(sequences))
    return path


@pytest.fixture
def judge(users: Path, capsys: pytest.CaptureFixture[str]) -> Judge:
    """Judge an index; return the report, or what went wrong."""

    def run(index: Path, target: str, *options: object) -> Any:
        arguments = ("grade", index, users, "--target", target, "--top-k", K, "--json", *options)
        status, out, err = outcome_of(lambda: main(list(map(str, arguments))), capsys)
        return err if status else json.loads(out)

    return run


def _export(corpus: Path, out: Path, factory: str) -> Path:
    export_index(corpus, out, FaissOptions(factory=factory))
    return out


def test_a_flat_index_is_exact(
    judge: Judge, golden_corpus: Path, server_f32_sharded: str, tmp_path: Path
) -> None:
    index = _export(golden_corpus, tmp_path / "flat", "Flat")
    report = judge(index, server_f32_sharded, "--repeat", 1)
    ((marks,),) = (each["grades"] for each in report["indexes"])
    assert (marks["recall"], marks["least_recall"], marks["rbo"]) == (1.0, 1.0, 1.0)
    assert (report["rows"], report["users"]) == (3000, 26)


def test_a_graph_is_graded_as_the_definition_of_recall_has_it(
    judge: Judge, golden_corpus: Path, server_f32: str, users: Path, tmp_path: Path
) -> None:
    out = _export(golden_corpus, tmp_path / "hnsw", "HNSW4")
    report = judge(out, server_f32, "--repeat", 1, "--search", "efSearch=20,200")
    grades = report["indexes"][0]["grades"]
    index: Any = faiss.read_index(str(out / "index.faiss"))
    vectors = np.load(out / "vectors.npy")
    queries = _representations(server_f32, users)
    exact = np.argsort(-(queries.astype(np.float64) @ vectors.T.astype(np.float64)))[:, :K]
    for marks, beam in zip(grades, (20, 200), strict=True):
        index.hnsw.efSearch = beam
        _, found = index.search(queries, K)
        both = zip(exact.tolist(), found.tolist(), strict=True)
        shares = [len(set(right) & set(given)) / K for right, given in both]
        assert marks["recall"] == pytest.approx(np.mean(shares))
        assert marks["least_recall"] == pytest.approx(min(shares))
        assert marks["setting"] == f"efSearch={beam}"
    worse, better = grades
    assert worse["recall"] < better["recall"] <= 1 and worse["rbo"] < better["rbo"] <= 1


def _representations(target: str, users: Path) -> Any:
    """Return the users' vectors: [U, D] f32."""
    with connect(target) as client:
        found = [client.encode_user(user) for user in load_sequences(users)]
    return np.array([each.user_representation for each in found], np.float32)


def test_a_scann_tree_is_exact_where_all_leaves_are_searched_and_all_posts_scored(
    judge: Judge, golden_corpus: Path, server_f32: str, tmp_path: Path
) -> None:
    try:
        export_index(golden_corpus, tmp_path / "scann", ScannOptions(leaves=10, reorder=3000))
    except MissingPackageError as error:
        pytest.skip(str(error))
    search = ("--search", "leaves_to_search=1,10", "--search", "nprobe=3")
    assert "nprobe is not a parameter of" in judge(tmp_path / "scann", server_f32, *search)
    report = judge(tmp_path / "scann", server_f32, "--repeat", 1, *search[:2])
    (index,) = report["indexes"]
    assert index["made_as"] == "ScaNN, 10 leaves, reorder 3000"
    one, ten = index["grades"]
    assert 0 < one["recall"] < ten["recall"] == ten["least_recall"] == ten["rbo"] == 1.0


def test_vectors_of_other_towers_are_refused(
    judge: Judge, golden_corpus_bf16: Path, server_f32: str, tmp_path: Path
) -> None:
    index = _export(golden_corpus_bf16, tmp_path / "other", "Flat")
    problem = judge(index, server_f32, "--allow-stale")
    assert f"{index}/index.json: tower_fingerprint: is " in problem


def test_another_corpus_of_the_same_towers_is_refused(
    judge: Judge, bundle_f32: Path, golden_layout: Path, server_f32: str, tmp_path: Path
) -> None:
    with np.load(golden_layout / "sports_corpus.npz") as npz:
        arrays = dict(npz)
    name = "candidate_representations"
    arrays[name] = np.roll(arrays[name], 1, axis=0)
    np.savez(tmp_path / "other.npz", allow_pickle=False, **arrays)
    import_corpus(tmp_path / "other.npz", open_bundle(bundle_f32), tmp_path / "other")
    index = _export(tmp_path / "other", tmp_path / "index", "Flat")
    assert "of another corpus" in judge(index, server_f32)


def test_an_index_of_a_corpus_that_has_changed_is_stale_until_it_is_exported_again(
    judge: Judge, bundle_f32: Path, golden_corpus: Path, tmp_path: Path
) -> None:
    path = copied(golden_corpus, tmp_path / "corpus")
    config = ServeConfig(bundle=bundle_f32, corpus=path, shards=1, engine=SMALL)
    old = _export(path, tmp_path / "old", "Flat")
    with run_server(config) as server:
        query = _representations(server.address, _only(tmp_path, user_id=1))
        count = 3 * K
        ids = range(2**64 - count, 2**64)
        posts = [Post(id_, 1, vector=query[0].tolist()) for id_ in reversed(ids)]
        with connect(server.address) as client:
            assert client.upsert_posts(posts).inserted == count
            tied = client.retrieve(User(1), top_k=K).candidates.post_ids
        assert tied == tuple(ids[:K])
        problem = judge(old, server.address)
        assert "sequence: is 0, the served corpus is at 1" in problem
        stale = judge(old, server.address, "--allow-stale", "--repeat", 1)["indexes"][0]
        assert stale["stale"] and stale["grades"][0]["least_recall"] == 0.0
        new = _export(path, tmp_path / "new", "Flat")
        ((marks,),) = (each["grades"] for each in judge(new, server.address)["indexes"])
    _, rows = faiss.read_index(str(new / "index.faiss")).search(query, K)
    assert set(np.load(new / "post_ids.npy")[rows[0]].tolist()) != set(tied)
    assert (marks["recall"], marks["least_recall"], marks["rbo"]) == (1.0, 1.0, 1.0)


def _only(folder: Path, user_id: int) -> Path:
    path = folder / "user.json"
    path.write_text(json.dumps([{"user_id": user_id, "history": []}]))
    return path
