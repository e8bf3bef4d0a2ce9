"""Pauses between attempts: growing, bounded, and not the same for all."""

from __future__ import annotations

from elanus.base.backoff import Backoff
from elanus.testing.clock import SeededRandom


def test_pauses_double_up_to_a_bound_and_begin_anew() -> None:
    backoff = Backoff(SeededRandom(1), 0.5, 4.0)
    for due_s in (0.5, 1.0, 2.0, 4.0, 4.0, 4.0):
        assert due_s / 2 <= backoff.next_s() <= due_s
    backoff.reset()
    assert backoff.next_s() <= 0.5


def test_two_do_not_come_back_together() -> None:
    first, second = (Backoff(SeededRandom(seed), 1.0, 64.0) for seed in (1, 2))
    assert all(abs(first.next_s() - second.next_s()) > 1e-6 for _ in range(6))
