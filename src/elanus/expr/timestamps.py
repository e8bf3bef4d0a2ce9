"""`ISO '…'` literals of TIMESTAMPTZ comparisons, as microseconds since the epoch."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone
from typing import Final

from elanus.expr.errors import FilterError

_OFFSET_HOUR_MIN: Final = -12
_OFFSET_HOUR_MAX: Final = 14
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_FORM: Final = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)(?:[T ](\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?)?\s*(Z|[+-]\d\d(?::?\d\d)?)?", re.ASCII
)


def iso_microseconds(text: str) -> int:
    """RFC 3339 or `YYYY-MM-DD HH:MM:SS`; without a zone it is UTC. Raises FilterError."""
    unknown = FilterError(f"invalid timestamp string: '{text}'. Does not match any known format")
    match = _FORM.fullmatch(text)
    if match is None:
        raise unknown
    *numbers, fraction, zone = match.groups()
    parts = [int(number or 0) for number in numbers]
    try:
        moment = datetime(*parts[:3], *parts[3:], tzinfo=_zone(zone))  # type: ignore[misc,arg-type]
    except ValueError as error:
        raise unknown from error
    microseconds = int((fraction or "").ljust(6, "0")[:6])
    return (moment - _EPOCH) // timedelta(microseconds=1) + microseconds


def _zone(text: str | None) -> timezone:
    if text is None or text == "Z":
        return UTC
    hours, minutes = int(text[1:3]), int(text[-2:]) if len(text) > 3 else 0
    signed = -hours if text[0] == "-" else hours
    if not _OFFSET_HOUR_MIN <= signed <= _OFFSET_HOUR_MAX:
        raise FilterError(
            f"UTC offset hour {signed} is out of the valid range [{_OFFSET_HOUR_MIN}, {_OFFSET_HOUR_MAX}]"
        )
    sign = -1 if text[0] == "-" else 1
    return timezone(sign * timedelta(hours=hours, minutes=minutes))
