"""Make the bundled sample of the demo from the full Debian data: `python tools/make_sample.py DATA_DIR`.

Writes src/elanus/app/sample/{packages,queries}.parquet. The sample holds the packages nearest to each of the bundled
text queries, so that the answers are the ones the whole archive would give, and fills up with packages drawn evenly.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

ROWS = 7000
NEAREST_PER_QUERY = 20
SEED = 7
COLUMNS = ["package", "section", "priority", "installed_size_kb", "depends", "tags", "description", "embedding"]
TARGET = Path(__file__).resolve().parents[1] / "src" / "elanus" / "app" / "sample"


def vectors(table: pa.Table) -> np.ndarray:
    """The embedding column as float32, shape (rows, dimension)."""
    column = table["embedding"].combine_chunks()
    return column.flatten().to_numpy(zero_copy_only=False).reshape(len(table), -1).astype(np.float32)


def choose(packages: pa.Table, queries: pa.Table) -> np.ndarray:
    """Rows of the sample, in the order of the full data."""
    data, asked = vectors(packages), vectors(queries)
    scores = asked @ data.T
    nearest = np.unique(np.argpartition(-scores, NEAREST_PER_QUERY, axis=1)[:, :NEAREST_PER_QUERY])
    others = np.setdiff1d(np.arange(len(packages)), nearest)
    filling = np.random.default_rng(SEED).choice(others, ROWS - len(nearest), replace=False)
    return np.sort(np.concatenate([nearest, filling]))


def main(folder: str) -> None:
    """Read the two full files in `folder`, write the two small ones."""
    packages = pq.read_table(f"{folder}/debian_packages.parquet", columns=COLUMNS)
    queries = pq.read_table(f"{folder}/debian_queries.parquet")
    sample = packages.take(pa.array(choose(packages, queries)))
    sample = sample.set_column(4, "depends", pc.cast(sample["depends"], pa.int32()))
    TARGET.mkdir(parents=True, exist_ok=True)
    for name, table in (("packages", sample), ("queries", queries)):
        path = TARGET / f"{name}.parquet"
        pq.write_table(
            table, path, compression="zstd", compression_level=19, use_dictionary=["section", "priority", "tags"]
        )
        sys.stdout.write(f"{path}: {len(table)} rows, {path.stat().st_size} bytes\n")


if __name__ == "__main__":
    main(sys.argv[1])
