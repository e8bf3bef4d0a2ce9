"""Sparse search beside scipy's product and tantivy's BM25, on one synthetic collection: ``python -m bench.sparse``.

Documents have Zipf-distributed terms, about 100 distinct ones each; weights are BM25's. The three systems answer the
same top-10 queries of 10 and of 50 terms drawn like the documents' terms, one query at a time on one core: the index
SPARSE_INVERTED_INDEX by our kernel, ``matrix @ query`` and a selection by scipy, and tantivy over the same terms as
text. CPU time is reported. Needs scipy and tantivy: ``pip install 'elanus[bench]'``.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from bench.environment import CACHE, require

K = 10
VOCABULARY = 30_000
TOKENS = 132
K1, B = 1.2, 0.75
QUERIES = 40
BLOCK = 25_000
FASTER_THAN_SCIPY = 10.0
OVER_TANTIVY_MAX = 2.0


@dataclass(frozen=True)
class Collection:
    """Entries row after row: terms and weights of row r are [offsets[r], offsets[r + 1]); `counts` are how often a term
    stands in its document; `idf` by term."""

    terms: np.ndarray
    weights: np.ndarray
    counts: np.ndarray
    offsets: np.ndarray
    idf: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1


def _shares() -> np.ndarray:
    shares = 1 / np.arange(1, VOCABULARY + 1)
    return np.asarray(np.cumsum(shares / shares.sum()))


def collection(rows: int) -> Collection:
    """The documents, from a fixed seed."""
    random, shares = np.random.default_rng(1), _shares()
    terms, counts, sizes = [], [], []
    for start in range(0, rows, BLOCK):
        count = min(BLOCK, rows - start)
        drawn = np.searchsorted(shares, random.random((count, TOKENS)))
        keys, often = np.unique(drawn + np.arange(count)[:, None] * VOCABULARY, return_counts=True)
        terms.append((keys % VOCABULARY).astype(np.uint32))
        counts.append(often.astype(np.int8))
        sizes.append(np.bincount(keys // VOCABULARY, minlength=count))
    all_terms, all_counts = np.concatenate(terms), np.concatenate(counts)
    offsets = np.concatenate((np.zeros(1, np.int64), np.cumsum(np.concatenate(sizes))))
    # Every document has TOKENS tokens, so that BM25's length normalisation is 1.
    weights = (all_counts * np.float32(K1 + 1) / (all_counts + np.float32(K1))).astype(np.float32)
    frequency = np.bincount(all_terms, minlength=VOCABULARY)
    idf = np.log(1 + (rows - frequency + 0.5) / (frequency + 0.5)).astype(np.float32)
    return Collection(all_terms, weights, all_counts, offsets, idf)


def queries(terms: int) -> list[np.ndarray]:
    """Distinct terms of each query, ascending."""
    random, shares = np.random.default_rng(terms), _shares()
    found = []
    for _ in range(QUERIES):
        drawn = np.unique(np.searchsorted(shares, random.random(4 * terms)))
        found.append(np.sort(random.permutation(drawn)[:terms]))
    return found


def ours(data: Collection) -> Callable[[np.ndarray], np.ndarray]:
    """The index over the collection; what answers a query with scores."""
    from elanus.index import registry
    from elanus.index.sparse import packed_queries
    from elanus.model.schema import FieldSchema
    from elanus.model.types import DataType

    words = np.column_stack((data.terms, data.weights.view(np.uint32)))
    column = pa.LargeBinaryArray.from_buffers(
        pa.large_binary(), len(data), [None, pa.py_buffer(data.offsets * 8), pa.py_buffer(words)]
    )
    field = FieldSchema(100, "v", DataType.SPARSE_FLOAT_VECTOR)
    resolved = registry.resolve({"index_type": "SPARSE_INVERTED_INDEX", "metric_type": "IP"}, field)
    index = registry.load(memoryview(b"".join(registry.build(resolved, column, 1))))

    def ask(terms: np.ndarray) -> np.ndarray:
        pairs = np.column_stack((terms.astype(np.uint32), data.idf[terms].view(np.uint32)))
        return index.search(packed_queries([pairs.tobytes()]), K, None, {}).scores[0]

    return ask


def scipys(data: Collection) -> Callable[[np.ndarray], np.ndarray]:
    """The product and a selection."""
    from scipy.sparse import csr_matrix

    matrix = csr_matrix((data.weights, data.terms.astype(np.int32), data.offsets), shape=(len(data), VOCABULARY))

    def ask(terms: np.ndarray) -> np.ndarray:
        query = np.zeros(VOCABULARY, np.float32)
        query[terms] = data.idf[terms]
        scores = matrix @ query
        return np.sort(scores[np.argpartition(-scores, K)[:K]])[::-1]

    return ask


def tantivys(data: Collection, folder: Path) -> Callable[[np.ndarray], np.ndarray]:
    """The same documents as text in an index on disk, of one segment, made once."""
    import tantivy

    builder = tantivy.SchemaBuilder()
    builder.add_text_field("body", stored=False, tokenizer_name="whitespace", index_option="freq")
    schema = builder.build()
    if not (folder / "meta.json").exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        writer = tantivy.Index(schema, str(folder)).writer(heap_size=2_000_000_000, num_threads=1)
        names = np.array([f"t{term} " for term in range(VOCABULARY)], object)
        for row in range(len(data)):
            span = slice(data.offsets[row], data.offsets[row + 1])
            text = "".join(np.repeat(names[data.terms[span]], data.counts[span]).tolist())
            writer.add_document(tantivy.Document(body=text))
        writer.commit()
        writer.wait_merging_threads()
    index = tantivy.Index(schema, str(folder))
    searcher = index.searcher()

    def ask(terms: np.ndarray) -> np.ndarray:
        clauses = [
            (tantivy.Occur.Should, tantivy.Query.term_query(schema, "body", f"t{term}", index_option="freq"))
            for term in terms
        ]
        found = searcher.search(tantivy.Query.boolean_query(clauses), K, count=False)
        return np.array([score for score, _ in found.hits])

    return ask


def _cpu_ms(ask: Callable[[np.ndarray], np.ndarray], asked: Sequence[np.ndarray], rounds: int) -> float:
    """By query, the best of some rounds."""
    best = float("inf")
    for _ in range(rounds):
        began_s = time.process_time()
        for terms in asked:
            ask(terms)
        best = min(best, (time.process_time() - began_s) * 1000 / len(asked))
    return best


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line for each number of terms; 0 if the goals are met."""
    parser = argparse.ArgumentParser(prog="python -m bench.sparse", description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=500_000)
    options = parser.parse_args(arguments)
    require("scipy", "tantivy")
    data = collection(options.rows)
    sys.stderr.write(f"bench: {len(data)} documents, {len(data.terms) / len(data):.0f} entries each\n")
    systems: dict[str, Any] = {
        "elanus": ours(data),
        "scipy": scipys(data),
        "tantivy": tantivys(data, CACHE / f"tantivy-{options.rows}"),
    }
    met = True
    for count in (10, 50):
        asked = queries(count)
        answers = {name: [ask(terms) for terms in asked[:5]] for name, ask in systems.items()}
        for mine, theirs, product in zip(*(answers[name] for name in ("elanus", "tantivy", "scipy")), strict=True):
            np.testing.assert_allclose(mine, product, rtol=1e-4)
            np.testing.assert_allclose(mine, theirs, rtol=2e-2)
        ms = {name: _cpu_ms(ask, asked[: 10 if name == "scipy" else QUERIES], 3) for name, ask in systems.items()}
        faster, over = ms["scipy"] / ms["elanus"], ms["elanus"] / ms["tantivy"]
        met &= faster >= FASTER_THAN_SCIPY and over <= OVER_TANTIVY_MAX
        figures = ", ".join(f"{name} {value:.2f} ms" for name, value in ms.items())
        sys.stdout.write(f"{count} terms: {figures}; {faster:.1f}x faster than scipy, {over:.2f}x tantivy's time\n")
    return 0 if met else 1


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    raise SystemExit(main())
