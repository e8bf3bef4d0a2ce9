"""Following a channel: its log is read and applied by one who may not append to it.

What is applied is a prefix of what every later owner replays, so a follower answers as the owner did a moment ago, and
is a standby that has little left to replay. Its evidence for a Strong read needs no owner: the log had ended where it
has read to, seen after the read arrived (`wal.log.Follower.at_end`). A follower that is overtaken by truncation has
lost the thread: it forgets all and is told to begin anew.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from elanus.base.doors import Doors, Job
from elanus.base.errors import StorageError, UnavailableError
from elanus.model.channel import Position
from elanus.nodes.streaming.channel import Channel
from elanus.wal.log import Follower, TruncatedError
from elanus.wal.records import decode_record

POLL_S: Final = 0.01
CATCH_UP_S_MAX: Final = 10.0
AGAIN_S: Final = 0.5


class Following:
    """See the module's head."""

    def __init__(self, doors: Doors, channel: Channel, follower: Follower, lost: Callable[[], None]) -> None:
        self._doors = doors
        self._channel = channel
        self._follower = follower
        self._lost = lost
        self._job: Job | None = None

    def start(self) -> None:
        """Read and apply from now on."""
        self._channel.follow()
        self._job = self._doors.tasks.spawn(self._read(), name=f"follow {self._channel.pchannel}")

    async def _read(self) -> None:
        while True:
            try:
                for position, data in await self._follower.next():
                    self._channel.apply(decode_record(data), position)
            except TruncatedError:
                self._lost()
                return
            except (UnavailableError, StorageError):
                await self._doors.clock.sleep(AGAIN_S)

    async def prove(self) -> None:
        """Return once the log was seen, after this call began, to end where it has been applied."""
        try:
            end_s = self._doors.clock.monotonic_s() + CATCH_UP_S_MAX
            while not await self._follower.at_end():
                if self._doors.clock.monotonic_s() > end_s:
                    raise UnavailableError(f"{self._channel.pchannel}: this follower lags behind")
                await self._doors.clock.sleep(POLL_S)
        except TruncatedError as error:
            raise UnavailableError(error.message) from error

    async def reach(self, position: Position) -> None:
        """Wait until everything through `position` is applied."""
        end_s = self._doors.clock.monotonic_s() + CATCH_UP_S_MAX
        while self._channel.applied < position:
            if self._doors.clock.monotonic_s() > end_s:
                raise UnavailableError(f"{self._channel.pchannel}: this follower lags behind")
            await self._doors.clock.sleep(POLL_S)

    async def stop(self) -> None:
        """Apply nothing more."""
        if self._job is not None:
            self._job.cancel()
            await self._job.wait()
        await self._follower.close()
