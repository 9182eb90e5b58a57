from __future__ import annotations

from phoenix_server.batching.stats import QueueStats, add_stats


def test_counts_are_added_and_estimates_are_of_the_current_queue() -> None:
    current = QueueStats(accepted=5, answered=3, device_s=1.5, slowness=1.25, uptime_s=9.0)
    other = QueueStats(accepted=2, waiting=1, device_s=0.5, slowness=3.0, reply_s=7.0)
    assert add_stats(current, other) == QueueStats(
        accepted=7, answered=3, waiting=1, device_s=2.0, slowness=1.25, uptime_s=9.0
    )


def test_hits_of_the_user_cache_are_added_and_its_users_are_not() -> None:
    current, other = (
        QueueStats(user_cache_hits=hits, user_cache_misses=1, user_cache_users=users)
        for hits, users in ((2, 7), (3, 5))
    )
    expected = QueueStats(user_cache_hits=5, user_cache_misses=2, user_cache_users=7)
    assert add_stats(current, other) == expected


def test_compilations_of_the_process_are_not_added() -> None:
    current, other = QueueStats(compilations_after_ready=2), QueueStats(compilations_after_ready=3)
    assert add_stats(current, other).compilations_after_ready == 3
    assert add_stats(other, current).compilations_after_ready == 3
