"""The one error of the filter language."""

from __future__ import annotations

from elanus.base.errors import ElanusError


class FilterError(ElanusError):
    """A filter that cannot be parsed, typed or served. The message names the reason, not the request it came with."""

    code = 1100


class UnknownFunctionError(FilterError):
    """A call of a function that does not exist. Milvus finds it out when the filter is run, not when it is parsed."""

    code = 65535
