"""What a client can get wrong about indexes, with Milvus's codes."""

from __future__ import annotations

from elanus.base.errors import Action, ElanusError


class IndexParameterError(ElanusError):
    """An index definition that cannot be accepted."""

    code = 1100
    action = Action.FIX_REQUEST


class IndexTypeNotServedError(IndexParameterError):
    """An index type that Milvus has and this server does not."""

    action = Action.UNSUPPORTED


class IndexBuildError(ElanusError):
    """The library that builds an index gave up on this data and these parameters; it would again."""

    code = 2099
    action = Action.FIX_REQUEST


class MetricError(ElanusError):
    """A metric of another package failed on these vectors; it would again."""

    code = 2099
    action = Action.FIX_REQUEST


class SearchParameterError(ElanusError):
    """Search parameters that do not fit the index."""

    code = 65535
    action = Action.FIX_REQUEST
