"""TIMESTAMPTZ: `ISO '…'` and `INTERVAL '…'` literals, and calendar arithmetic on columns of microseconds."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from functools import lru_cache
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec
import numpy as np
import numpy.typing as npt

from elanus.expr.errors import FilterError

OFFSET_HOUR_MIN: Final = -12
OFFSET_HOUR_MAX: Final = 14
_MONTHS_MAX: Final = 12 * 10_000
_SECONDS_MAX: Final = 10_000 * 366 * 86_400
_MICRO: Final = 1_000_000
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_FORM: Final = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)(?:[T ](\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?)?\s*(Z|[+-]\d\d(?::?\d\d)?)?", re.ASCII
)
_DURATION: Final = re.compile(
    r"P(?:(\d{1,9})Y)?(?:(\d{1,9})M)?(?:(\d{1,9})D)?(?:T(?=\d)(?:(\d{1,9})H)?(?:(\d{1,9})M)?(?:(\d{1,9})S)?)?", re.ASCII
)


class Interval(msgspec.Struct, frozen=True):
    """Calendar months, and seconds on top."""

    months: int
    seconds: int

    def negated(self) -> Interval:
        """The same length backwards."""
        return Interval(-self.months, -self.seconds)


@lru_cache(maxsize=64)
def zone_of(name: str) -> tzinfo:
    """The IANA time zone of that name. Raises FilterError."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise FilterError(f"unknown or invalid IANA Time Zone ID: {name}") from error


def iso_microseconds(text: str, zone: tzinfo) -> int:
    """RFC 3339 or `YYYY-MM-DD HH:MM:SS` as microseconds since the epoch; without an offset it is read in `zone`. Of the
    two offsets of a time that local clocks skip or show twice, the one nearer to UTC counts, as in `zones`.
    """
    unknown = FilterError(f"invalid timestamp string: '{text}'. Does not match any known format")
    match = _FORM.fullmatch(text)
    if match is None:
        raise unknown
    *numbers, fraction, offset = match.groups()
    year, month, day, hour, minute, second = (int(number or 0) for number in numbers)
    own_zone = zone if offset is None else _offset(offset)
    try:
        moment = datetime(year, month, day, hour, minute, second, tzinfo=own_zone)
        moment = min(moment, moment.replace(fold=1), key=_distance_from_utc)
        whole = (moment - _EPOCH) // timedelta(microseconds=1)
    except (ValueError, OverflowError) as error:
        raise unknown from error
    return whole + int((fraction or "").ljust(6, "0")[:6])


def _distance_from_utc(moment: datetime) -> timedelta:
    return abs(moment.utcoffset() or timedelta())


def _offset(text: str) -> timezone:
    if text == "Z":
        return UTC
    hours, minutes = int(text[1:3]), int(text[-2:]) if len(text) > 3 else 0
    sign = -1 if text[0] == "-" else 1
    if not OFFSET_HOUR_MIN <= sign * hours <= OFFSET_HOUR_MAX:
        raise FilterError(
            f"UTC offset hour {sign * hours} is out of the valid range [{OFFSET_HOUR_MIN}, {OFFSET_HOUR_MAX}]"
        )
    return timezone(sign * timedelta(hours=hours, minutes=minutes))


def parse_interval(text: str) -> Interval:
    """An ISO 8601 duration of integers, at most ten thousand years. Raises FilterError."""
    match = _DURATION.fullmatch(text)
    if match is None or text == "P":
        raise FilterError(f"invalid ISO 8601 duration: {text}")
    years, months, days, hours, minutes, seconds = (int(number or 0) for number in match.groups())
    interval = Interval(12 * years + months, ((24 * days + hours) * 60 + minutes) * 60 + seconds)
    if interval.months > _MONTHS_MAX or interval.seconds > _SECONDS_MAX:
        raise FilterError(f"invalid ISO 8601 duration: {text} is too long")
    return interval


def shifted(microseconds: npt.NDArray[np.int64], interval: Interval) -> npt.NDArray[np.int64]:
    """Each moment plus the interval, in UTC: parts of a second are dropped, and a day beyond its month's end rolls on
    into the next month (31 January plus one month is 3 March, or 2 in a leap year).
    """
    seconds = microseconds // _MICRO
    if interval.months:
        moments = seconds.astype("M8[s]")
        days = moments.astype("M8[D]")
        months = days.astype("M8[M]")
        moved = (months + np.timedelta64(interval.months, "M")).astype("M8[D]") + (days - months.astype("M8[D]"))
        seconds = (moved.astype("M8[s]") + (moments - days.astype("M8[s]"))).astype(np.int64)
    return np.asarray((seconds + interval.seconds) * _MICRO)
