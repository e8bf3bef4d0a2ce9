"""The server is killed again and again under a full load; nothing acknowledged is missing and nothing else is there.

The writers insert, upsert and delete, by keys and by filter, while small limits keep flushes, index builds and merges
going. The kill comes at a random moment, or in the instant a new file appears under `objects/` (a flush, a build or a
merge has written it and nobody has committed it yet), and sometimes in the middle of a start.
"""

from __future__ import annotations

import os
import random
import re
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from drill_housekeeper import Housekeeper
from drill_writers import KINDS, Writer, create, total
from pymilvus import MilvusClient

from servers import BUSY, DrillServer

SEED = int(os.environ.get("DRILL_SEED", "20261123"))
WRITERS_PER_KIND = 2
FILE_WAIT_S_MAX = 3.0


@dataclass
class Drill:
    """The whole play from one seed (the machine's own timing aside)."""

    folder: Path
    seed: int
    dice: random.Random = field(init=False)
    writers: list[Writer] = field(init=False)
    housekeeper: Housekeeper = field(init=False)
    moments: Counter[str] = field(default_factory=Counter)
    events: Counter[str] = field(default_factory=Counter)
    recovered_s: list[float] = field(default_factory=list)
    servers: list[DrillServer] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.dice = random.Random(self.seed)
        self.writers = [
            Writer(number, kind, random.Random(self.dice.random()))
            for number, kind in enumerate(kind for kind in KINDS for _ in range(WRITERS_PER_KIND))
        ]
        self.housekeeper = Housekeeper(random.Random(self.dice.random()))

    @property
    def faults(self) -> list[str]:
        return self.housekeeper.faults + [fault for writer in self.writers for fault in writer.faults]

    def run(self, kills: int) -> None:
        """Kill so often, checking after each start; then a clean stop and a last check."""
        server = self.start().wait_ready()
        client = MilvusClient(server.uri)
        for kind in KINDS:
            create(client, kind)
        client.close()
        for number in range(kills):
            self.round(server)
            if number % 4 == 3:
                self.kill_in_start()
            server = self.start_and_check()
        assert server.stop() == 0, server.errors()
        self.start_and_check().kill()

    def start(self) -> DrillServer:
        self.servers.append(DrillServer(self.folder, *BUSY))
        return self.servers[-1]

    def round(self, server: DrillServer) -> None:
        stop = threading.Event()
        crew = [*self.writers, self.housekeeper]
        threads = [threading.Thread(target=one.run, args=(server.uri, stop)) for one in crew]
        for thread in threads:
            thread.start()
        self.wait_for_moment()
        assert server.is_alive, server.errors()
        server.kill()
        stop.set()
        for thread in threads:
            thread.join()
        said = server.errors()
        self.events.update(re.findall(r"\b(index\.built|segments\.compacted|log\.torn_tail_cut|flush\.failed)\b", said))
        assert "Traceback" not in said and "task.failed" not in said, said

    def wait_for_moment(self) -> None:
        time.sleep(self.dice.uniform(0.2, 2.0))
        if self.dice.random() < 0.4:
            self.moments["random"] += 1
            return
        wanted = self.dice.choice(("segments/", "index-", "manifests/", ".temporary/", ".log"))
        until = time.monotonic() + FILE_WAIT_S_MAX
        before = self.files()
        while time.monotonic() < until:
            new = self.files() - before
            if any(wanted in name for name in new):
                self.moments[f"new {wanted.strip('/')}"] += 1
                return
            time.sleep(0.001)
        self.moments["random"] += 1

    def files(self) -> set[str]:
        return {os.path.join(folder, name) for folder, _, names in os.walk(self.folder) for name in (*names, "")}

    def kill_in_start(self) -> None:
        self.moments["in a start"] += 1
        server = self.start()
        time.sleep(self.dice.uniform(0.3, 1.5))
        server.kill()

    def start_and_check(self) -> DrillServer:
        server = self.start().wait_ready()
        client = MilvusClient(server.uri)
        total(client, KINDS[0])
        self.recovered_s.append(time.monotonic() - server.started_s)
        counted = Counter({kind.name: 0 for kind in KINDS})
        for writer in self.writers:
            counted[writer.kind.name] += writer.check(client)
        for kind in KINDS:
            assert total(client, kind) == counted[kind.name], f"{kind.name}: count(*) and rows disagree"
        self.housekeeper.check(client)
        client.close()
        assert not self.faults, "\n".join(self.faults[:20])
        return server

    def report(self) -> str:
        counts = [writer.ledger.counts for writer in self.writers]
        codes = sum((writer.codes for writer in self.writers), Counter())
        recovered = sorted(self.recovered_s) or [0.0]
        acknowledged, rows = sum(one.acknowledged for one in counts), sum(one.rows for one in counts)
        refused, unknown = sum(one.refused for one in counts), sum(one.unknown for one in counts)
        reads = sum(one.reads for one in counts)
        return (
            f"kills {sum(self.moments.values())} {dict(self.moments)}; operations {acknowledged} acknowledged "
            f"({rows} rows), {refused} refused, {unknown} unknown, {reads} reads, "
            f"beside them {dict(self.housekeeper.done)}; {dict(self.events)}; errors {dict(codes)}; "
            f"start to first answer: median {recovered[len(recovered) // 2]:.2f} s, longest {recovered[-1]:.2f} s"
        )


def play(folder: Path, kills: int) -> None:
    drill = Drill(folder, SEED)
    try:
        drill.run(kills)
    finally:
        for server in drill.servers:
            server.kill()
        print("\ncrash drill:", drill.report())


@pytest.mark.slow
def test_killed_a_few_times(tmp_path: Path) -> None:
    play(tmp_path / "store", kills=3)


@pytest.mark.drill
def test_killed_many_times(tmp_path: Path) -> None:
    play(tmp_path / "store", kills=20)
