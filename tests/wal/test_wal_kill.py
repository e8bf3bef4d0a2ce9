"""A real process on the real disk, killed without warning: what it said it had written is there."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from elanus.base.real import real_doors
from elanus.model.channel import ORIGIN, Position
from elanus.testing.conformance_log import PCHANNEL, confirmed, everything
from elanus.wal.file import FileLog

WRITER = """
import asyncio, os, sys
from elanus.base.real import real_doors
from elanus.model.channel import ORIGIN
from elanus.testing.conformance_log import PCHANNEL, confirmed
from elanus.wal.file import FileLog

async def main(folder, term):
    doors = real_doors(lambda name, error: os._exit(9))
    writer = await FileLog(doors, folder, file_bytes_max=20_000).open(PCHANNEL, term, ORIGIN, confirmed)

    async def one():
        number = 0
        while True:
            position = await writer.append([b"%d" % number * 50, b"x" * (number % 700)])
            os.write(1, b"%d %d %d\\n" % (position.term, position.sequence, number))
            number += 1

    await asyncio.gather(*(one() for _ in range(5)))

asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""


@pytest.mark.slow
def test_a_killed_process_keeps_its_word(tmp_path: Path) -> None:
    promised: dict[Position, bytes] = {}
    for term in (1, 2):
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), str(term)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(300)]
        process.kill()
        lines += process.stdout.readlines()
        process.wait()
        process.stdout.close()
        for line in lines:
            if line.endswith(b"\n"):
                of_term, sequence, number = map(int, line.split())
                promised[Position(of_term, sequence)] = b"%d" % number * 50

    async def main() -> None:
        doors = real_doors(lambda name, error: None)
        log = FileLog(doors, str(tmp_path))
        await log.open(PCHANNEL, 3, ORIGIN, confirmed)
        found = dict(await everything(log))
        doors.close()
        assert len(promised) >= 600
        assert {position: found.get(position) for position in promised} == promised
        for position in found:
            assert position._replace(offset=1 - position.offset) in found

    asyncio.run(main())
