"""What `elanus status` shows of a cluster with a silent node, a leaving one, and a shard that nobody owns."""

from __future__ import annotations

import msgspec

from elanus.app.status import FollowerReport, NodeReport, Report, ShardReport, json, text
from elanus.meta.records import NodeRecord, Pchannel
from elanus.model.channel import ORIGIN, Position
from elanus.model.timestamp import compose
from elanus.nodes.contracts import NodeStatus, ProcessStatus, ShardStatus

PROCESS = ProcessStatus(role="x", version="1", process_id=1, up_s=61.0, resident_bytes=3 << 20, cpu_s=1.0)
STATUS = ShardStatus(
    vchannel="c_0_7v0",
    manifest_version=4,
    flushed_through=ORIGIN,
    flushed_timestamp=compose(1_000_000),
    row_counts={1: 5, 2: 6},
    growing_bytes=700,
    served_version=3,
    pinned_version=3,
    last_timestamp=compose(1_002_500),
)
BEHIND = msgspec.structs.replace(STATUS, last_timestamp=compose(1_001_000))
REPORT = Report(
    cluster_id="abc",
    nodes=[
        NodeReport(record=NodeRecord(role="coordinator", node_id=1, address="h:1#t"), leads=True, process=PROCESS),
        NodeReport(record=NodeRecord(role="streaming", node_id=2, address="h:2#t")),
        NodeReport(
            record=NodeRecord(role="query", node_id=3, address="h:3#t", draining=True),
            process=PROCESS,
            held=NodeStatus(segments={11: Position(1, 2, 3)}, indexes={}, memory_bytes=5 << 20),
        ),
    ],
    channels=[Pchannel(name="c_0", term=5, owner=2), Pchannel(name="c_1", term=1)],
    shards=[
        ShardReport(
            vchannel="c_0_7v0",
            collection="films",
            owner=2,
            term=5,
            manifest_version=4,
            status=STATUS,
            followers=[FollowerReport(node_id=4, status=BEHIND), FollowerReport(node_id=5, status=STATUS)],
        ),
        ShardReport(vchannel="c_1_7v1", collection="films", owner=0, term=1, manifest_version=2),
    ],
)


def test_people_read_it() -> None:
    lines = [line.split() for line in text(REPORT).splitlines()]
    assert ["1", "coordinator", "active", "61", "s", "3", "MiB", "h:1"] in lines
    assert ["2", "streaming", "silent", "h:2"] in lines
    assert ["3", "query", "leaving", "61", "s", "3", "MiB", "1", "(5", "MiB)", "h:3"] in lines
    assert ["c_1", "nobody", "1"] in lines
    told = ["c_0_7v0", "films", "2", "4", "3", "11", "700", "2.5", "s", "4", "(1.5", "s),", "5", "(0.0", "s)"]
    assert told in lines
    assert ["c_1_7v1", "films", "nobody", "2", "silent"] in lines
    assert ["11", "3"] in lines


def test_machines_read_it() -> None:
    assert msgspec.json.decode(json(REPORT))["nodes"][0]["process"]["resident_bytes"] == 3 << 20
