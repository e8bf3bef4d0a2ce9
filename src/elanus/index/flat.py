"""FLAT: no index at all. The vector column is scanned; `exact` does it."""

from __future__ import annotations

from collections.abc import Mapping

from elanus.index.contract import ResolvedIndex
from elanus.index.declaration import FLOAT_METRICS, FLOAT_TYPES, LIST_TYPES, Declaration
from elanus.model.schema import FieldSchema
from elanus.model.types import Metric


class Flat(Declaration):
    """Exact scan."""

    name = "FLAT"
    data_types = FLOAT_TYPES | LIST_TYPES
    metrics = FLOAT_METRICS

    def resolve(self, params: Mapping[str, str], field: FieldSchema) -> ResolvedIndex:
        """Needs no file."""
        return ResolvedIndex(self.name, Metric(params["metric_type"]), {}, needs_file=False)
