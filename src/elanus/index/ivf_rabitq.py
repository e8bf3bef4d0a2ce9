"""IVF_RABITQ: one bit for each number of a vector, rotated at random, and two factors that make the score nearly
unbiased (Gao, Long 2024, "RaBitQ: quantizing high-dimensional vectors with a theoretical error bound"). Bits are scored
a block of rows at a time, from tables in registers: a hundred times faster than one by one, with the same recall."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from elanus.index.codes import REFINE, REFINE_K, refine_type
from elanus.index.contract import SearchParams
from elanus.index.ivf import NLIST, NPROBE, TRAIN_SEED, IvfType, Lists
from elanus.index.kernels import library
from elanus.index.parameters import IntegerParameter, Setting

BIT_NS: Final = 0.03
ROW_NS: Final = 4.0
BLOCK_ROWS: Final = 32


class IvfRabitq(IvfType):
    """The type itself."""

    name = "IVF_RABITQ"
    build_parameters = (NLIST, REFINE, refine_type())
    search_parameters = (
        NPROBE,
        IntegerParameter("rbq_bits_query", 0, 8, 0),
        IntegerParameter("rbq_query_bits", 0, 8, 0),
        REFINE_K,
    )

    def row_ns(self, dimension: int, params: Mapping[str, Setting]) -> float:
        """By the bit."""
        return dimension * BIT_NS + ROW_NS

    def empty(self, lists: Lists) -> Any:
        """A rotation, then lists of bits."""
        faiss = library()
        bits = faiss.IndexIVFRaBitQFastScan(
            lists.quantizer, lists.dimension, lists.count, lists.metric, BLOCK_ROWS, True, 1
        )
        rotation = faiss.RandomRotationMatrix(lists.dimension, lists.dimension)
        rotation.init(TRAIN_SEED)
        return faiss.IndexPreTransform(rotation, bits)

    def search_parameters_of(self, nprobe: int, chosen: Any, params: SearchParams) -> Any:
        """`rbq_bits_query` says into how many bits a query's numbers are rounded; 0 means as many as the tables hold.
        Milvus's guide calls it `rbq_query_bits`."""
        faiss = library()
        given = params.get("rbq_bits_query", params.get("rbq_query_bits", 0))
        inner = faiss.IVFRaBitQSearchParameters(nprobe=nprobe, sel=chosen, qb=given if isinstance(given, int) else 0)
        return faiss.SearchParametersPreTransform(index_params=inner)
