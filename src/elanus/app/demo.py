"""`elanus demo`: a server, real data, answers that can be read.

Everything goes the way a user's own program goes: a server process of its own on a free port, `pymilvus` as client.
The sample (7,000 Debian packages, 100 questions, all embedded by all-MiniLM-L6-v2) is part of the package.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import as_file, files
from typing import Any

from elanus.app.minilm import INSTALL, MiniLM, find_model
from elanus.base.errors import UnavailableError

COLLECTION = "debian"
DIMENSION = 384
BATCH_ROWS = 500
ANSWERS = 4
STOP_S_MAX = 15.0
CONNECT_S_MAX = 60.0  # a machine that is busy with something else still shows its demo
SERVES = " on "  # the server's announcement ends in ` on ADDRESS`
FIELDS = ["package", "section", "installed_size_kb", "description"]

# (a question of the bundled hundred, a filter)
QUESTIONS = (
    ("relational database server", ""),
    ("play music from the command line", "installed_size_kb < 500"),
    ("chess game with a strong computer opponent", 'section == "games"'),
    ("fonts for Japanese text", 'package like "fonts-%" and installed_size_kb > 5000'),
    ("machine learning classifiers", 'section in ["science", "gnu-r"] and depends < 20'),
    ("educational games for children", 'array_contains(tags, "interface::x11")'),
)


@dataclass(frozen=True)
class Tools:
    """The third-party libraries of the demo, loaded when it starts."""

    pymilvus: Any
    parquet: Any
    rich: Any
    console: Any


def demonstrate(words: str, data: str | None) -> None:
    """Run the demo in the folder `data`, or in a temporary one; `words` is the user's own question."""
    with contextlib.ExitStack() as stack:
        folder = data or stack.enter_context(tempfile.TemporaryDirectory(prefix="elanus-demo-"))
        server, address, started_s = stack.enter_context(serving(folder))
        tools = load_tools()
        tools.console.print(f"A server answers on [bold]{address}[/] after {started_s:.2f} s.")
        client = stack.enter_context(
            contextlib.closing(tools.pymilvus.MilvusClient(f"http://{address}", timeout=CONNECT_S_MAX))
        )
        load(tools, client)
        questions = tools.parquet("queries")
        vectors = dict(zip(questions["text"].to_pylist(), matrix(questions), strict=True))
        if words:
            ask_own_words(tools, client, words)
        else:
            for text, condition in QUESTIONS:
                ask(tools, client, (text, vectors[text]), condition)
        say_how_to_go_on(tools, data, bool(words))
        if server.poll() is not None:
            raise UnavailableError(f"the demo's server ended early with code {server.returncode}")


def load_tools() -> Tools:
    """Import what only the demo needs, while the server starts."""
    import pyarrow.parquet
    import pymilvus
    import rich.console
    import rich.markup
    import rich.progress
    import rich.table

    def read(name: str) -> Any:
        with as_file(files("elanus.app").joinpath("sample", f"{name}.parquet")) as path:
            return pyarrow.parquet.read_table(path)

    return Tools(pymilvus, read, rich, rich.console.Console(highlight=False))


@contextlib.contextmanager
def serving(folder: str) -> Iterator[tuple[subprocess.Popen[str], str, float]]:
    """A server process on `folder` and a free port: the process, its address, and the seconds to its announcement."""
    begun = time.monotonic()
    command = [sys.executable, "-m", "elanus", "serve", "--data", folder, "--port", "0", "--metrics-port", "-1"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        announcement = server.stdout.readline() if server.stdout else ""
        if SERVES not in announcement:
            server.wait(STOP_S_MAX)
            raise UnavailableError(f"the demo's server did not start: {shlex.join(command)}")
        yield server, announcement.rpartition(SERVES)[2].strip(), time.monotonic() - begun
    finally:
        server.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(STOP_S_MAX)
        if server.poll() is None:
            server.kill()
            server.wait()
        if server.stdout:
            server.stdout.close()


def matrix(table: Any) -> Any:
    """The embedding column as float32, shape (rows, DIMENSION)."""
    flat = table["embedding"].combine_chunks().flatten()
    return flat.to_numpy(zero_copy_only=False).reshape(-1, DIMENSION).astype("float32")


def load(tools: Tools, client: Any) -> None:
    """Create the collection, insert the sample, build the index."""
    kinds = tools.pymilvus.DataType
    schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field("package", kinds.VARCHAR, max_length=256, is_primary=True)
    schema.add_field("section", kinds.VARCHAR, max_length=64)
    schema.add_field("installed_size_kb", kinds.INT64)
    schema.add_field("depends", kinds.INT32)
    schema.add_field("tags", kinds.ARRAY, element_type=kinds.VARCHAR, max_capacity=256, max_length=128)
    schema.add_field("description", kinds.VARCHAR, max_length=1024)
    schema.add_field("embedding", kinds.FLOAT_VECTOR, dim=DIMENSION)
    index = client.prepare_index_params()
    index.add_index("embedding", index_type="HNSW", metric_type="COSINE", params={"M": 16, "efConstruction": 200})
    if client.has_collection(COLLECTION):
        client.drop_collection(COLLECTION)
    client.create_collection(COLLECTION, schema=schema)

    rows = insert(tools, client)
    begun = time.monotonic()
    with tools.console.status("Flushing and building an HNSW index …"):
        client.flush(COLLECTION)
        client.create_index(COLLECTION, index)
        client.load_collection(COLLECTION)
    tools.console.print(f"{rows:,} rows are indexed and loaded after {time.monotonic() - begun:.2f} s.\n")


def insert(tools: Tools, client: Any) -> int:
    """Insert the sample in batches under a progress bar; the number of rows."""
    packages = tools.parquet("packages")
    vectors = matrix(packages)
    names = [field.name for field in client_fields(packages)]
    begun = time.monotonic()
    with tools.rich.progress.Progress(console=tools.console) as progress:
        task = progress.add_task("Loading 7,000 Debian packages", total=len(packages))
        for start in range(0, len(packages), BATCH_ROWS):
            rows = packages.select(names).slice(start, BATCH_ROWS).to_pylist()
            for row, vector in zip(rows, vectors[start : start + BATCH_ROWS], strict=True):
                row["embedding"] = vector
            progress.advance(task, client.insert(COLLECTION, rows)["insert_count"])
    seconds = time.monotonic() - begun
    tools.console.print(f"Loaded in {seconds:.2f} s, {len(packages) / seconds:,.0f} rows/s, every batch durable.")
    return len(packages)


def client_fields(packages: Any) -> list[Any]:
    """The scalar columns that the collection has."""
    return [field for field in packages.schema if field.name not in ("embedding", "priority")]


def ask(tools: Tools, client: Any, question: tuple[str, Any], condition: str) -> None:
    """Search with and print one question; `question` is (text, vector)."""
    text, vector = question
    begun = time.monotonic()
    hits = client.search(
        COLLECTION,
        [vector],
        limit=ANSWERS,
        filter=condition,
        output_fields=FIELDS,
        search_params={"params": {"ef": 64}},
    )[0]
    took_ms = (time.monotonic() - begun) * 1000
    escape = tools.rich.markup.escape
    title = f"[bold]{escape(text)}[/]" + (f"   where [cyan]{escape(condition)}[/]" if condition else "")
    table = tools.rich.table.Table(box=None, show_header=False, padding=(0, 1, 0, 2), expand=True)
    for share in (None, 3, None, None, 5):
        table.add_column(no_wrap=True, overflow="ellipsis", ratio=share)
    for hit in hits:
        entity = hit["entity"]
        table.add_row(
            f"{hit['distance']:.3f}",
            f"[green]{entity['package']}[/]",
            entity["section"],
            f"{entity['installed_size_kb']:,} kB",
            escape(entity["description"]),
        )
    tools.console.print(f"{title}   [dim]{took_ms:.1f} ms[/]", soft_wrap=True)
    tools.console.print(table)
    tools.console.print()


def ask_own_words(tools: Tools, client: Any, words: str) -> None:
    """Embed the user's words where the model is installed; say how to get it where not."""
    folder = find_model()
    if folder is None:
        tools.console.print(
            "To embed your own words, Elanus needs the model the data was embedded with (84 MB, once):\n"
        )
        tools.console.print(f"    {shlex.quote(sys.executable)} -m {INSTALL}\n", soft_wrap=True)
        tools.console.print("Then ask again. Until then, here is one of the bundled questions:\n")
        questions = tools.parquet("queries")
        ask(tools, client, (questions["text"][0].as_py(), matrix(questions)[0]), "")
        return
    vector = MiniLM.load(folder).embed(words)
    ask(tools, client, (words, vector), "")
    ask(tools, client, (words, vector), "installed_size_kb < 1000")


def say_how_to_go_on(tools: Tools, data: str | None, own_words: bool) -> None:
    """The next steps, with commands that can be copied."""
    steps = [
        ("run a server", "elanus serve    (make serve)"),
        ("use it", 'pymilvus.MilvusClient("http://127.0.0.1:19530")'),
        ("without a server", 'elanus.connect("./my.db") gives a MilvusClient of a folder'),
    ]
    if not own_words:
        steps.insert(
            0, ("ask in your words", 'elanus demo "draw a family tree"    (make demo WORDS="draw a family tree")')
        )
    if data:
        steps.append(("serve this data", f"elanus serve --data {shlex.quote(os.path.abspath(data))}"))
    tools.console.print("[bold]How to go on[/]")
    for goal, command in steps:
        tools.console.print(f"  {goal:<18}  {command}", soft_wrap=True)
