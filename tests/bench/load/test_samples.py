from phoenix_bench.load.samples import Samples
from phoenix_bench.results import OURS


def test_samples_of_equal_system_params_and_metric_become_one_row() -> None:
    samples = Samples("serve")
    for value in (3.0, 1.0, 2.0):
        samples.add("throughput", "calls/s", value, {"callers": 64})
    samples.add("throughput", "calls/s", 7.0, {"callers": 64}, "a peer")
    samples.add("throughput", "calls/s", 9.0, {"callers": 1})
    ours, peer, alone = samples.rows()
    assert (ours.suite, ours.system, ours.median, ours.runs) == ("serve", OURS, 2.0, 3)
    assert (peer.system, peer.median) == ("a peer", 7.0)
    assert (alone.params, alone.median) == ({"callers": 1}, 9.0)


def test_a_note_is_kept_once() -> None:
    samples = Samples("serve")
    for what in ("first", "second", "first"):
        samples.note(what)
    assert samples.notes() == ["first", "second"]
