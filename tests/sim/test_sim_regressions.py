"""Runs that once broke a promise, each kept as its plan, with one line on the cause."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from elanus.testing.sim.plan import Plan
from elanus.testing.sim.run import play

PLANS = Path(__file__).with_name("plans")

CAUSES = {
    "2-collection-not-found": "the leader forgot a collection's name before it had read its record anew, and the "
    "meta store did not answer: the collection was gone until the next read",
    "104-announced-under-a-dead-lease": "an announcement of unknown outcome landed after the next one and put the "
    "node's record back under a lease that nobody kept: the node lived on and nobody knew",
    "110-partition-not-found": "a partition's record was flushed, then owner and coordinator changed before the "
    "catalog held it: the new owner found it neither in the log, which its manifest covered, nor in the catalog",
    "42-a-partition-twice": "the meta store did not answer between two attempts at a step, and the call ended with its "
    "intent open: it was made again, the next coordinator carried out both, and a drop took one of two partitions",
    "85-intents-left": "an intent whose writing had an unknown outcome was stored, and nobody carried it",
    "208-a-partition-denied": "a coordinator that had been deposed and did not know it answered from its old catalog",
    "377-dropped-and-listed": "as 208, of a collection that its successor had dropped",
    "2-read-at-a-forgotten-follower": "a follower was let go and begun anew while a Strong read waited there: the read "
    "took the new one's evidence for what the old one had applied",
    "113-a-partition-twice": "as 42, with a lease that ended and a proxy that died in between",
    "105-a-load-without-query-nodes": "no query node was there for a moment, which left no memory: a load was "
    "refused as one too large",
    "56-read-by-a-follower-alone": "the checker's own: only a follower had read a record, which was no longer replayed "
    "when it was acknowledged; it became an owner that replays nothing, and the record counted as lost",
    "141-the-new-one-is-forgotten": "the last append of a channel that a node had let go of was fenced when the node "
    "had opened the channel anew, and it forgot the new one: nobody served it, and nobody knew",
    "643-shown-by-a-follower-first": "a follower read a record in the log and showed it before the owner had heard "
    "that its put was done: a later Strong read at the owner missed it",
    "136-served-from-before-its-replay": "an owner left after a flush, and the coordinator, which had not heard of it, "
    "told the next one to serve the manifest before: that one had replayed above the new manifest only, and what the "
    "flush had sealed was in neither part of its view",
    "10191-appended-under-the-term-before": "a write waited for timestamps while the log was opened again under a new "
    "term; it was appended under the one before, which was fenced, and so its owner took the channel for lost and "
    "forgot it: nobody served it, and nobody knew",
    "30031-given-away-for-all-that-is-known": "the record that gave a channel to a node was written and the answer "
    "lost, and the plan went back to its owner: the coordinator saw nothing to do, and another stood on record",
    "10897-followed-by-its-old-owner": "the reply to a move was lost, so that the old owner was never told; asked to "
    "follow the channel, it took itself for the owner, and said yes: its reads were refused for good",
    "8-a-flush-told-late": "a flush heard late of its commit, when its owner had been told to serve what the "
    "coordinator had merged of it since: it put the older manifest over the later one, and the owner ended",
}


def test_every_plan_has_a_cause() -> None:
    assert {path.stem for path in PLANS.glob("*.json")} == set(CAUSES)


@pytest.mark.slow
@pytest.mark.parametrize("name", CAUSES)
def test_it_stays_mended(name: str) -> None:
    outcome = play(msgspec.json.decode((PLANS / f"{name}.json").read_bytes(), type=Plan))
    assert not outcome.failure, outcome.failure
