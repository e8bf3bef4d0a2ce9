"""A real cluster loses its processes, its services and the ways between them, under a load that checks every answer.

Nothing acknowledged is lost, doubled or revived; no Strong read is stale; and after each fault the cluster serves
again by itself. What each fault cost the clients (the longest time without a success) is printed at the end.

The faults of one cluster are one test each, in the order below; a later one meets the store that the earlier ones left.
"""

from __future__ import annotations

import os
import random
import signal
import time
import urllib.request
from collections.abc import Callable, Iterator

import pytest
from clusters import LEASE_S, Cluster, RoleProcess, real_cluster, start_store, stop_for
from hosts import need_hosts
from pymilvus import MilvusClient
from workload import KINDS, Load

from services import BUCKET

pytestmark = [pytest.mark.drill, pytest.mark.alone]

SEED = int(os.environ.get("DRILL_SEED", "20261125"))
BEFORE_S = 1.5
AFTER_S = 2.0
WELL_S_MAX = 60.0
OUTAGE_S = 3 * LEASE_S
MOVED_S_MAX = 30.0

Inject = Callable[[Cluster], None]


class Trial:
    """One cluster with its load, and what each fault cost."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.load = Load(cluster.uri, SEED)
        self.load.create()
        self.dice = random.Random(SEED)
        self.costs: list[str] = []

    def round(self, name: str, inject: Inject, **goals: float) -> dict[str, float]:
        """Inject under load, wait until all is well, check everything; the longest time without a success by probe,
        printed beside the goal (seconds) of those that have one."""
        self.load.start()
        try:
            self.load.wait_well(WELL_S_MAX)
            time.sleep(BEFORE_S)
            since_s = time.monotonic()
            inject(self.cluster)
            self.load.wait_well(WELL_S_MAX)
            time.sleep(AFTER_S)
            outages = {probe.what: probe.outage_s(since_s) for probe in self.load.probes}
            self.cluster.revive()
            self.load.wait_well(WELL_S_MAX)
        finally:
            self.load.stop()
        rows = self.load.check()
        shown = "  ".join(f"{what} {seconds:5.2f} s" for what, seconds in outages.items())
        for what, goal_s in goals.items():
            shown += f"  (goal {what} {goal_s:g} s: {'met' if outages[what] <= goal_s else 'missed'})"
        self.costs.append(f"{name:44} {shown}   {rows} rows")
        print("\n" + self.costs[-1])
        faults = self.cluster.faults()
        assert not faults, "\n".join(faults[:20])
        return outages


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trial]:
    need_hosts()
    with real_cluster(tmp_path_factory.mktemp("cluster"), start_store, BUCKET) as cluster:
        made = Trial(cluster)
        yield made
        print("\nlongest time without a success, by fault:\n  " + "\n  ".join(made.costs))
        print(" ", made.load.summary())


# --- processes that die ---------------------------------------------------------------------------------------------
def owner(cluster: Cluster) -> RoleProcess:
    """An owner of some channel."""
    return next(iter(cluster.owners().values()))


def test_nothing_happens(trial: Trial) -> None:
    outages = trial.round("nothing", lambda cluster: None)
    assert max(outages.values()) < 5.0, outages


def test_owner_is_killed(trial: Trial) -> None:
    outages = trial.round("owner killed", lambda cluster: owner(cluster).kill(), write=LEASE_S + 3.0)
    assert outages["write"] < LEASE_S + 6.0, outages


def test_query_node_is_killed(trial: Trial) -> None:
    trial.round("query node killed", lambda cluster: cluster.of("query")[0].kill())


def test_query_node_is_killed_with_two_replicas(trial: Trial) -> None:
    """No search fails twice in a row."""
    client = MilvusClient(trial.cluster.uri, timeout=60)
    for kind in KINDS:
        client.release_collection(kind.name)
        client.load_collection(kind.name, replica_number=2)
    reads = trial.load.probes[1:]
    trial.cluster.revive()
    before = [probe.failed_twice for probe in reads]
    outages = trial.round("query node killed, two replicas", lambda cluster: cluster.of("query")[1].kill())
    after = [probe.failed_twice for probe in reads]
    trial.costs[-1] += f"  {sum(after) - sum(before)} reads failed twice"
    for kind in KINDS:
        client.release_collection(kind.name)
        client.load_collection(kind.name)
    client.close()
    assert after == before, outages


def test_every_process_tells_of_itself(trial: Trial) -> None:
    """/livez, /healthz and /metrics answer on every process."""
    for process in trial.cluster.processes.values():
        base = f"http://{trial.cluster.hosts.address(process.name)}:9091"
        for path, word in (("livez", b"OK"), ("healthz", b"OK"), ("metrics", b"elanus_resident_bytes")):
            with urllib.request.urlopen(f"{base}/{path}", timeout=10) as answer:
                assert word in answer.read(), f"{process.name} /{path}"


def test_active_coordinator_is_killed(trial: Trial) -> None:
    outages = trial.round("active coordinator killed", lambda cluster: cluster.active_coordinator().kill())
    assert outages["read"] < 3.0, outages
    assert outages["search"] < 3.0, outages


def test_both_coordinators_are_killed(trial: Trial) -> None:
    """Reads go on at every level without any coordinator."""

    def inject(cluster: Cluster) -> None:
        for process in cluster.of("coordinator"):
            process.kill()
        time.sleep(OUTAGE_S)
        cluster.revive()

    outages = trial.round("both coordinators killed for a while", inject)
    assert outages["read"] < 3.0, outages
    assert outages["search"] < 3.0, outages


def test_data_node_is_killed(trial: Trial) -> None:
    trial.round("data node killed", lambda cluster: cluster.of("data")[0].kill())


def test_proxy_is_killed(trial: Trial) -> None:
    trial.round("proxy killed", lambda cluster: cluster.of("proxy")[0].kill())


def test_processes_are_killed_at_random(trial: Trial) -> None:
    def inject(cluster: Cluster) -> None:
        for _ in range(6):
            trial.dice.choice(list(cluster.processes.values())).kill()
            time.sleep(trial.dice.uniform(0.2, 2.0))
            cluster.revive()

    trial.round("six killed at random", inject)


# --- processes that leave -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("role", ["proxy", "query", "streaming", "coordinator"])
def test_process_leaves_and_comes_back(trial: Trial, role: str) -> None:
    """SIGTERM: what it holds is handed over."""

    def inject(cluster: Cluster) -> None:
        process = cluster.active_coordinator() if role == "coordinator" else cluster.of(role)[0]
        assert process.stop() == 0, process.said()[-2000:]

    trial.round(f"{role} leaves (SIGTERM)", inject)


# --- zombies --------------------------------------------------------------------------------------------------------
def test_owner_wakes_after_its_successor_serves(trial: Trial) -> None:
    def inject(cluster: Cluster) -> None:
        stop_for(owner(cluster), LEASE_S + 5.0)

    trial.round("owner stopped until its successor serves", inject, write=LEASE_S + 3.0)


def test_coordinator_wakes_after_its_successor_leads(trial: Trial) -> None:
    trial.round("coordinator stopped", lambda cluster: stop_for(cluster.active_coordinator(), LEASE_S + 3.0))


def test_query_node_wakes(trial: Trial) -> None:
    trial.round("query node stopped", lambda cluster: stop_for(cluster.of("query")[0], LEASE_S + 3.0))


# --- services -------------------------------------------------------------------------------------------------------
def test_etcd_stops(trial: Trial) -> None:
    def inject(cluster: Cluster) -> None:
        cluster.etcd.pause()
        time.sleep(OUTAGE_S)
        cluster.etcd.resume()

    trial.round("etcd stopped for three leases", inject)


def test_etcd_is_killed(trial: Trial) -> None:
    def inject(cluster: Cluster) -> None:
        cluster.etcd.process.send_signal(signal.SIGTERM)
        cluster.etcd.process.wait()
        time.sleep(OUTAGE_S)
        cluster.etcd.start_again()

    trial.round("etcd down for three leases", inject)


def test_store_stops(trial: Trial) -> None:
    def inject(cluster: Cluster) -> None:
        cluster.store.pause()
        time.sleep(OUTAGE_S)
        cluster.store.resume()

    trial.round("object store stopped for three leases", inject)


# --- ways that are cut ----------------------------------------------------------------------------------------------
def cut_for(cluster: Cluster, name: str, others: list[str], seconds: float = OUTAGE_S) -> None:
    """Cut a host off from others for a while."""
    for other in others:
        cluster.hosts.cut(name, other)
    time.sleep(seconds)
    cluster.hosts.mend(name)


def test_proxy_is_cut_from_streaming(trial: Trial) -> None:
    trial.round("proxy 1 cut from streaming 1", lambda cluster: cut_for(cluster, "proxy-1", ["streaming-1"]))


def test_owner_is_cut_from_etcd(trial: Trial) -> None:
    def inject(cluster: Cluster) -> None:
        cut_for(cluster, owner(cluster).name, [cluster.addresses["etcd"]])

    trial.round("owner cut from etcd", inject)


def test_query_node_is_cut_from_the_store(trial: Trial) -> None:
    trial.round("query 1 cut from the store", lambda c: cut_for(c, "query-1", [c.addresses["store"]]))


def test_owner_is_cut_from_the_store(trial: Trial) -> None:
    trial.round("owner cut from the store", lambda c: cut_for(c, owner(c).name, [c.addresses["store"]]))


def test_channel_moves_from_an_owner_cut_from_the_coordinator_only(trial: Trial) -> None:
    """Its lease lives on, it answers reads, and it must not answer a Strong one with what its successor has changed."""

    def inject(cluster: Cluster) -> None:
        victim = owner(cluster)
        for other in cluster.of("coordinator"):
            cluster.hosts.cut(victim.name, other.name)
        end_s = time.monotonic() + MOVED_S_MAX
        while victim in cluster.owners().values():
            assert time.monotonic() < end_s, "its channels were left with an owner that the coordinator cannot reach"
            time.sleep(0.5)
        time.sleep(LEASE_S)
        cluster.hosts.mend(victim.name)

    trial.round("owner cut from the coordinators only", inject)


# --- caches ---------------------------------------------------------------------------------------------------------
def test_every_worker_loses_its_folder(trial: Trial) -> None:
    """Each worker in turn is killed and starts with an empty cache folder."""

    def inject(cluster: Cluster) -> None:
        for role in ("streaming", "query", "data"):
            process = cluster.of(role)[0]
            process.kill()
            for path in sorted((cluster.folder / "cache" / process.name).rglob("*"), reverse=True):
                path.rmdir() if path.is_dir() else path.unlink()
            cluster.revive()
            time.sleep(1.0)

    trial.round("workers killed and their folders wiped", inject)
