"""HNSW_PRQ: the graph over product codes of which each part is the sum of `nrq` centroids (Babenko, Lempitsky 2015,
"Tree quantization", and Chen, Guan, Wang 2010, "Approximate nearest neighbor search by residual vector
quantization")."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from elanus.index.codes import PQ_NITER, REFINE, REFINE_K, quiet_clustering, refine_type, training_rows
from elanus.index.contract import Floats
from elanus.index.hnsw import EF, EF_CONSTRUCTION, M
from elanus.index.hnsw_pq import BITS, PARTS, HnswPq
from elanus.index.kernels import library
from elanus.index.parameters import IntegerParameter, Setting


class HnswPrq(HnswPq):
    """The type itself."""

    name = "HNSW_PRQ"
    build_parameters = (M, EF_CONSTRUCTION, PARTS, BITS, IntegerParameter("nrq", 1, 16, 2), REFINE, refine_type())
    search_parameters = (EF, REFINE_K)

    def storage(self, values: Floats, metric: int, params: Mapping[str, Setting]) -> Any:
        """Additive codes, with the norm of what they stand for, so that a distance is a sum over the parts. Codes are
        chosen part by part: wider beams cost minutes and gain a percent."""
        faiss = library()
        parts, bits = int(params["m"]), int(params["nbits"])
        index = faiss.IndexProductResidualQuantizer(
            values.shape[1], parts, int(params["nrq"]), bits, metric, faiss.AdditiveQuantizer.ST_norm_float
        )
        for part in range(parts):
            residual = faiss.downcast_AdditiveQuantizer(index.prq.subquantizer(part))
            residual.max_beam_size = 1
            residual.train_type = faiss.ResidualQuantizer.Train_default
            residual.cp.niter = PQ_NITER
            quiet_clustering(residual.cp)
        index.train(training_rows(values, 2**bits))
        if len(values):
            index.add(values)
        return index
