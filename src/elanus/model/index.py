"""Index definitions: what a user asked to be built on a field."""

from __future__ import annotations

import msgspec


class IndexDefinition(msgspec.Struct, frozen=True, omit_defaults=True):
    """`params` holds every user parameter as given (strings), `index_type` and `metric_type` included."""

    index_id: int
    name: str
    field_id: int
    field_name: str
    params: dict[str, str]

    @property
    def index_type(self) -> str:
        """As the user named it; AUTOINDEX where nothing was named."""
        return self.params.get("index_type", "AUTOINDEX")

    @property
    def metric_type(self) -> str:
        """Empty for scalar indexes."""
        return self.params.get("metric_type", "")
