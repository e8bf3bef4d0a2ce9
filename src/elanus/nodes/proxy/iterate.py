"""Pages of a search iterator: the server keeps nothing, a page is a range search beyond the last page's worst score.

A page holds hits strictly worse than `last_bound`, as a float32. Hits that tie with the last of a page and did not fit
into it are not found again: that is the protocol's own rule.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from elanus.nodes.proxy.plan import SearchPlan

_FARTHEST: Final = float(np.finfo(np.float32).max)


def bounded(plan: SearchPlan) -> tuple[float | None, float | None]:
    """Radius and range filter of the search: the request's own, narrowed to what lies beyond the last page."""
    radius, near = plan.radius, plan.range_filter
    if plan.iterator is None or plan.iterator.last_bound is None:
        return radius, near
    away = np.float32(-np.inf if plan.larger_is_better else np.inf)
    beyond = float(np.nextafter(np.float32(plan.iterator.last_bound), away))
    if plan.larger_is_better:
        return (-_FARTHEST if radius is None else radius), (beyond if near is None else min(near, beyond))
    return (_FARTHEST if radius is None else radius), (beyond if near is None else max(near, beyond))


def last_bound(plan: SearchPlan, scores: np.ndarray) -> float:
    """The worst score of the page; of an empty page the bound it came with, or the farthest there is."""
    if len(scores):
        return float(scores[-1])
    if plan.iterator is not None and plan.iterator.last_bound is not None:
        return plan.iterator.last_bound
    return -_FARTHEST if plan.larger_is_better else _FARTHEST
