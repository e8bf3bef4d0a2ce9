"""Hybrid search: several searches at one moment, their hits fused by a ranker.

Each single search keeps its own vectors, field, filter and limit; partitions, output fields, freshness, page and
grouping are those of the whole. A single search looks as far down as its own limit and the whole's offset say.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec

from elanus.base.limits import TOP_K_MAX
from elanus.functions.rankers import AVERAGE, MAX, SUM, AnyRanker
from elanus.functions.score_parameters import check_search_count, legacy_ranker, ranker_of
from elanus.model.columns import Rows
from elanus.model.errors import RequestError
from elanus.model.reads import Grouping, Hits, ShardRead
from elanus.model.requests import HybridSearchRequest, SearchReply, SearchRequest
from elanus.model.types import Metric
from elanus.nodes.proxy.consistency import Freshness, freshness
from elanus.nodes.proxy.entry import CollectionEntry
from elanus.nodes.proxy.forms import clock_of
from elanus.nodes.proxy.grouping import grouping_of
from elanus.nodes.proxy.outputs import expanded, outgoing
from elanus.nodes.proxy.plan import SearchPlan, check_round_decimal, result_window, search_plan
from elanus.nodes.proxy.reads import Reader, outgoing_groups, query_count_of, with_input
from elanus.nodes.proxy.reduce import page_of, rounded_half_up
from elanus.nodes.proxy.routes import Routes
from elanus.nodes.proxy.stored_vectors import no_hits, spread
from elanus.search.fuse import GroupOrder, fuse
from elanus.search.reduce import best_elements

SEARCH_COUNT_MAX: Final = 1024
_WHOLE_KEYS: Final = frozenset(
    ("offset", "group_by_field", "group_size", "strict_group_size", "json_path", "json_type", "strict_cast")
)
"""Parameters that a single search takes from the whole, or does without."""
_PASSED_KEYS: Final = ("group_by_field", "group_size", "strict_group_size")


class _Ranking(NamedTuple):
    """What `rank_params` say."""

    ranker: AnyRanker | None
    limit: int
    offset: int
    decimals: int
    grouping: Grouping | None
    order: GroupOrder | None


class _Single(NamedTuple):
    """One search: its plan, what the shards are asked for (None: no query has a vector), the queries that are asked."""

    plan: SearchPlan
    read: ShardRead | None
    places: Rows | None


class HybridReader:
    """Fuses searches made through a `Reader`."""

    def __init__(self, reader: Reader, routes: Routes) -> None:
        self._reader = reader
        self._routes = routes

    async def search(self, request: HybridSearchRequest) -> SearchReply:
        """The best rows over all searches."""
        return await self._routes.with_entry(request, lambda entry: self._search(entry, request), kind="reading")

    async def _search(self, entry: CollectionEntry, request: HybridSearchRequest) -> SearchReply:
        entry.require_loaded("search")
        query_count = _query_count(request)
        ranking = _ranking(entry, request, query_count)
        outputs = expanded(entry, request.output_fields, with_primary=False)
        clock = clock_of(request.rank_params, entry.timezone)
        fresh = freshness(request.consistency, entry)
        singles = [await self._single(entry, request, one, ranking, fresh) for one in request.requests]
        parts = await self._hits(entry, singles, query_count)
        metrics = [Metric(single.plan.metric) for single in singles]
        assert ranking.ranker is not None
        fused = fuse(parts, metrics, ranking.ranker, ranking.order)
        hits = page_of(fused, ranking.limit, ranking.offset)
        return SearchReply(
            collection=entry.name,
            primary_field=entry.primary.name,
            counts=hits.counts,
            keys=hits.keys,
            scores=rounded_half_up(hits.scores, ranking.decimals),
            fields=outgoing(outputs.fields, hits.fields, len(hits.keys), clock),
            output_fields=outputs.names,
            groups=outgoing_groups(entry, ranking.grouping, hits, clock),
            session_timestamp=hits.read_timestamp,
            searched_row_count=hits.searched_row_count,
        )

    async def _single(
        self,
        entry: CollectionEntry,
        whole: HybridSearchRequest,
        one: SearchRequest,
        ranking: _Ranking,
        fresh: Freshness,
    ) -> _Single:
        request = _narrowed(whole, one, ranking)
        if request.function_score is not None and ranker_of(request.function_score, entry.schema, 1) is not None:
            raise RequestError("a single search of a hybrid search takes boosts only, no ranker")
        plan, places = search_plan(entry, request), None
        if request.ids is not None:
            request, places = await self._reader.with_stored_vectors(entry, request, plan, fresh)
            if not len(places):
                return _Single(plan, None, places)
        return _Single(
            plan, with_input(entry, self._reader.search_read(entry, request, plan, fresh), ranking.ranker), places
        )

    async def _hits(self, entry: CollectionEntry, singles: Sequence[_Single], query_count: int) -> list[Hits]:
        """The hits of each search."""
        reads = [single.read for single in singles if single.read is not None]
        answers = iter(await self._reader.searched(entry, reads) if reads else ())
        parts: list[Hits] = []
        for single in singles:
            if single.read is None:
                parts.append(no_hits(entry, query_count))
                continue
            hits = best_elements(next(answers))
            parts.append(hits if single.places is None else spread(hits, single.places, query_count))
        return parts


def _query_count(request: HybridSearchRequest) -> int:
    if not request.requests:
        raise RequestError("no ann search requests")
    if len(request.requests) > SEARCH_COUNT_MAX:
        raise RequestError(f"maximum of ann search requests is {SEARCH_COUNT_MAX}")
    counts = {query_count_of(one) for one in request.requests}
    if len(counts) > 1:
        raise RequestError("sub search request nq should be the same")
    return counts.pop()


def _narrowed(whole: HybridSearchRequest, one: SearchRequest, ranking: _Ranking) -> SearchRequest:
    """A single search as it is run."""
    params = {key: value for key, value in one.params.items() if key not in _WHOLE_KEYS}
    if params.get("iterator", "").lower() == "true" or params.get("search_iter_v2", "").lower() == "true":
        raise RequestError("search iterator is not supported in hybrid search")
    own = params.get("topk", "")
    if own.isdecimal():
        params["topk"] = str(min(int(own) + ranking.offset, max(int(own), TOP_K_MAX)))
    elif not own:
        params["topk"] = str(ranking.limit + ranking.offset)
    params.update({key: whole.rank_params[key] for key in _PASSED_KEYS if key in whole.rank_params})
    return msgspec.structs.replace(
        one,
        database=whole.database,
        collection=whole.collection,
        partitions=whole.partitions,
        output_fields=whole.output_fields,
        params=params,
    )


# --- rank_params ----------------------------------------------------------------------------------------------------
def _ranking(entry: CollectionEntry, request: HybridSearchRequest, query_count: int) -> _Ranking:
    params = request.rank_params
    if request.function_score is not None and request.function_score.functions:
        ranker = ranker_of(request.function_score, entry.schema, query_count)
        if ranker is None:
            raise RequestError("unsupported rerank function: [boost] , list of supported [decay,model,rrf,weighted]")
    else:
        ranker = legacy_ranker(params)
    if "limit" not in request.rank_params:
        raise RequestError("limit not found in rank_params")
    limit, offset = result_window(request.rank_params)
    decimals = check_round_decimal(params.get("round_decimal", "-1"))
    grouping = grouping_of(entry, params)
    scorer = params.get("rank_group_scorer", "") or MAX
    if scorer not in (MAX, SUM, AVERAGE):
        raise RequestError(f"input group scorer type: {scorer} is not supported")
    check_search_count(ranker, len(request.requests))
    order = None if grouping is None else GroupOrder(grouping.size, scorer)
    return _Ranking(ranker, limit, offset, decimals, grouping, order)
