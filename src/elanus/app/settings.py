"""Settings: one frozen tree, read once at start, passed down from the composition root.

Four sources, each stronger than the one before: the defaults below, a TOML file (`--config`, tables named like the
sections), environment variables (`ELANUS_<SECTION>_<NAME>`), and command-line flags. A name or value that is wrong in
any of them stops the start with a `SettingsError` that says which setting, where it came from and what would be right.

Every setting carries its explanation and bounds in its annotation; `elanus settings`, `docs/settings.md` and the
refusals are made from these.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_type_hints

import msgspec
from msgspec import Meta

from elanus.base.errors import Action, ElanusError
from elanus.base.limits import GIB, INTERNAL_MESSAGE_BYTES_MAX, KIB, MIB

ENVIRONMENT_PREFIX = "ELANUS_"
# Variables that are not settings of the tree: where the sockets of embedded helpers live, and the file to read.
RESERVED_VARIABLES = frozenset({"ELANUS_RUNTIME_DIR", "ELANUS_CONFIG"})

# The system's own limit is 107 bytes; the rest is for what is put behind the name.
UNIX_PATH_BYTES_MAX = 100

# So long after a process's lease has ended, others have taken over what it held.
TAKE_OVER_S = 3.0

Port = Annotated[int, Meta(ge=0, le=65535)]


class SettingsError(ElanusError):
    """A setting that is unknown, of the wrong type or out of bounds. Nothing was started."""

    code = 1100
    action = Action.FIX_REQUEST


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A group of settings; its docstring is the group's explanation."""


class ServerSettings(Section, frozen=True, kw_only=True):
    """Where the server listens, and how it stops."""

    host: Annotated[
        str,
        Meta(description="Address to listen on. Anything wider than loopback is open to whoever reaches it."),
    ] = "127.0.0.1"
    port: Annotated[Port, Meta(description="Port for every Milvus client. 0 takes a free one.")] = 19530
    unix_path: Annotated[
        str,
        Meta(description="Unix socket to listen on instead of host and port, at most 100 bytes. Empty: none."),
    ] = ""
    metrics_port: Annotated[
        int,
        Meta(ge=-1, le=65535, description="Port for /healthz, /livez and /metrics. 0 takes a free one, -1 is off."),
    ] = 9091
    connection_age_s_max: Annotated[
        float,
        Meta(
            ge=0.0,
            le=86400.0,
            description="A client's connection of about this age, in seconds, is asked to end after its calls, so that "
            "load spreads anew behind a TCP balancer. 0: never.",
        ),
    ] = 0.0
    stop_grace_s: Annotated[
        float,
        Meta(ge=0.0, le=600.0, description="Longest wait at SIGTERM for calls under way, in seconds."),
    ] = 5.0


class StorageSettings(Section, frozen=True, kw_only=True):
    """The folder that holds everything."""

    data: Annotated[str, Meta(min_length=1, description="Folder of the store; made if missing.")] = "./elanus-data"
    free_bytes_min: Annotated[
        int,
        Meta(ge=0, description="Writes are refused, retriably, while the disk has less room than this."),
    ] = 64 * MIB


class LogSettings(Section, frozen=True, kw_only=True):
    """The write-ahead log."""

    pchannel_count: Annotated[
        int,
        Meta(ge=1, le=256, description="Physical channels of a new store; fixed once the store is made."),
    ] = 4
    file_bytes_max: Annotated[
        int,
        Meta(ge=64 * KIB, le=4 * GIB, description="A log file of this size is followed by a new one."),
    ] = 64 * MIB


class SegmentSettings(Section, frozen=True, kw_only=True):
    """Growing data and its flush into immutable segments."""

    flush_bytes_max: Annotated[
        int,
        Meta(ge=64 * KIB, le=16 * GIB, description="A growing segment of this size is flushed."),
    ] = 128 * MIB
    flush_idle_s: Annotated[
        float,
        Meta(ge=0.1, le=86400.0, description="A growing segment without new rows for so long is flushed."),
    ] = 600.0
    segment_bytes_max: Annotated[
        int,
        Meta(ge=64 * KIB, le=64 * GIB, description="Compaction makes no segment larger than this."),
    ] = 1 * GIB
    loaded_bytes_max: Annotated[
        int,
        Meta(
            ge=0,
            description="A load is refused when the segments of a query node, with their indexes, would take more "
            "memory than this. 0: nine tenths of what the machine or the control group has.",
        ),
    ] = 0
    growing_bytes_max: Annotated[
        int,
        Meta(ge=1 * MIB, description="Writes are refused, retriably, while growing data takes more than this."),
    ] = 2 * GIB


class CompactionSettings(Section, frozen=True, kw_only=True):
    """Merging small segments and folding in deletes, in the background."""

    enabled: Annotated[bool, Meta(description="Whether compaction starts by itself.")] = True
    segment_count_min: Annotated[
        int,
        Meta(ge=2, le=1024, description="So many small segments of a partition are merged at once."),
    ] = 4
    deleted_ratio_min: Annotated[
        float,
        Meta(gt=0.0, le=1.0, description="A segment with this share of deleted rows is rewritten without them."),
    ] = 0.2
    retention_ms: Annotated[
        int,
        Meta(ge=0, description="Deleted rows younger than this stay readable at an explicit earlier timestamp."),
    ] = 300_000


class IndexSettings(Section, frozen=True, kw_only=True):
    """Vector indexes."""

    build_threads: Annotated[
        int,
        Meta(ge=0, le=1024, description="Threads of one index build; 0 means every core."),
    ] = 0
    interim_enabled: Annotated[
        bool,
        Meta(description="Whether a large growing segment that is searched gets an index of its own until its flush."),
    ] = True


class ComputeSettings(Section, frozen=True, kw_only=True):
    """Threads for searches."""

    serving_threads: Annotated[
        int,
        Meta(ge=0, le=1024, description="Threads that search; 0 means one per core."),
    ] = 0


class LoggingSettings(Section, frozen=True, kw_only=True):
    """What is written to standard error, one line per event."""

    level: Annotated[
        Literal["debug", "info", "warning", "error"],
        Meta(description="Least serious event that is written."),
    ] = "warning"
    format: Annotated[
        Literal["text", "json"],
        Meta(description="text: `key=value` pairs for people. json: one object a line for machines."),
    ] = "text"


class ClusterSettings(Section, frozen=True, kw_only=True):
    """A cluster: each role a process. What the processes share, and how they reach one another."""

    meta: Annotated[
        str,
        Meta(description="Metadata that all share: etcd://HOST:PORT[,HOST:PORT]/PREFIX, or etcds:// for TLS."),
    ] = ""
    store: Annotated[
        str,
        Meta(
            description="Objects that all share: s3://BUCKET/PREFIX, az://CONTAINER/PREFIX, gs://BUCKET/PREFIX, or "
            "file:///FOLDER for processes of one machine."
        ),
    ] = ""
    wal: Annotated[str, Meta(description="The log: store:// keeps it on the objects.")] = "store://"
    cache: Annotated[
        str,
        Meta(
            description="The one folder that a process writes to; nothing is lost with it. "
            "Empty: the user's own cache folder."
        ),
    ] = ""
    cache_bytes_max: Annotated[
        int,
        Meta(
            ge=MIB, description="Objects of a remote store that a process keeps in its cache folder, the least used go."
        ),
    ] = 16 * GIB
    host: Annotated[str, Meta(description="Address on which a process listens for the others.")] = "127.0.0.1"
    port: Annotated[Port, Meta(description="Port for the others; 0 takes a free one.")] = 0
    advertise: Annotated[
        str,
        Meta(description="Host under which the others reach this process. Empty: `cluster.host`."),
    ] = ""
    lease_s: Annotated[
        float,
        Meta(ge=0.5, le=600.0, description="A process that was not heard of for so long is replaced, in seconds."),
    ] = 15.0
    patience_s: Annotated[
        float,
        Meta(
            ge=0.0,
            le=3600.0,
            description="How long a proxy repeats a call while a shard or the coordinator moves, in seconds; longer "
            "than a lease and a take-over. 0: the lease and ten seconds.",
        ),
    ] = 0.0
    reply_bytes_max: Annotated[
        int,
        Meta(
            ge=KIB,
            le=INTERNAL_MESSAGE_BYTES_MAX // 2,
            description="A result that one process owes another and that is larger than this is handed over "
            "through the object store.",
        ),
    ] = 64 * MIB
    spill_ttl_s: Annotated[
        float,
        Meta(ge=1.0, le=86400.0, description="How long such a result is kept for who asked for it, in seconds."),
    ] = 300.0
    tls_certificate: Annotated[
        str,
        Meta(description="PEM file of this process's certificate. Empty: calls between processes are not encrypted."),
    ] = ""
    tls_key: Annotated[str, Meta(description="PEM file of the certificate's private key.")] = ""
    tls_authority: Annotated[str, Meta(description="PEM file of the authority that signed every certificate.")] = ""
    tls_name: Annotated[
        str,
        Meta(description="Name that every process's certificate carries. Empty: the host that it is reached by."),
    ] = ""


class EmbeddedSettings(Section, frozen=True, kw_only=True):
    """The helper process behind `elanus.connect`."""

    idle_exit_s: Annotated[
        float,
        Meta(ge=0.0, le=86400.0, description="The helper leaves so long after its last client, in seconds."),
    ] = 10.0


class Settings(Section, frozen=True, kw_only=True):
    """The whole tree."""

    server: ServerSettings = ServerSettings()
    storage: StorageSettings = StorageSettings()
    log: LogSettings = LogSettings()
    segment: SegmentSettings = SegmentSettings()
    compaction: CompactionSettings = CompactionSettings()
    index: IndexSettings = IndexSettings()
    compute: ComputeSettings = ComputeSettings()
    logging: LoggingSettings = LoggingSettings()
    cluster: ClusterSettings = ClusterSettings()
    embedded: EmbeddedSettings = EmbeddedSettings()


class Setting(msgspec.Struct, frozen=True):
    """One leaf of the tree, described."""

    name: str
    kind: str
    default: object
    bounds: str
    description: str

    variable_prefix: ClassVar[str] = ENVIRONMENT_PREFIX

    @property
    def variable(self) -> str:
        """The environment variable that sets it."""
        return self.variable_prefix + self.name.upper().replace(".", "_")


def describe() -> Iterator[Setting]:
    """Every setting in the order of the tree."""
    for section in msgspec.structs.fields(Settings):
        for field in msgspec.structs.fields(section.default):
            yield _describe_field(f"{section.name}.{field.name}", field)


def load(
    config: str | None = None,
    environment: Mapping[str, str] | None = None,
    flags: Mapping[str, str | int | float] | None = None,
) -> Settings:
    """The tree from all sources; `flags` are keyed `section.name`, None values are not allowed.

    Raises SettingsError, before anything is started, for an unknown name, a wrong value or a broken relation.
    """
    tree: dict[str, dict[str, Any]] = {}
    origin: dict[str, str] = {}
    sources = (
        ("the file", _from_file(config) if config else {}),
        ("the environment", _from_environment(environment or {})),
        ("the command line", dict(flags or {})),
    )
    for where, values in sources:
        for name, value in values.items():
            section, _, leaf = name.partition(".")
            tree.setdefault(section, {})[leaf] = value
            origin[name] = f"{config}" if where == "the file" else where
    settings = _convert(tree, origin)
    _check_relations(settings)
    return settings


def explain(name: str) -> str:
    """What would be right for the setting `name`: kind, bounds and default."""
    for setting in describe():
        if setting.name == name:
            bounds = f" {setting.bounds}" if setting.bounds else ""
            return f"{setting.kind}{bounds}, default {setting.default!r}"
    raise SettingsError(f"there is no setting {name!r}{_nearest(name)}")


def markdown() -> str:
    """The text of docs/settings.md."""
    lines = [
        "# Settings",
        "",
        "Made by `elanus settings --markdown`. A setting comes, in rising priority, from its default, the TOML file",
        "given by `--config` or `ELANUS_CONFIG` (a table per section), its environment variable, and the command line",
        "(`--set section.name=value`, or the flag of its own that the common ones have).",
        "",
        "Two more variables are read: `ELANUS_CONFIG` names the TOML file, and `ELANUS_RUNTIME_DIR` the private folder",
        "for the sockets of embedded helpers (default: `/tmp/elanus-<uid>`).",
    ]
    last = ""
    for setting in describe():
        section = setting.name.partition(".")[0]
        if section != last:
            title = (type(getattr(Settings(), section)).__doc__ or "").strip()
            lines += [
                "",
                f"## {section}",
                "",
                title,
                "",
                "| setting | default | values | what it does |",
                "|---|---|---|---|",
            ]
            last = section
        values = f"{setting.kind} {setting.bounds}".strip().replace("|", "\\|")
        lines.append(f"| `{setting.name}` | `{setting.default!r}` | {values} | {setting.description} |")
    return "\n".join(lines) + "\n"


# --- sources --------------------------------------------------------------------------------------------------------


def _from_file(path: str) -> dict[str, Any]:
    try:
        document = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"cannot read the settings file {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"the settings file {path} is not TOML: {error}") from error
    values: dict[str, Any] = {}
    for section, table in document.items():
        if not isinstance(table, dict):
            raise SettingsError(f"{path}: {section!r} stands outside a table; settings are written under [section]")
        for name, value in table.items():
            values[f"{section}.{name}"] = value
    return values


def _from_environment(environment: Mapping[str, str]) -> dict[str, str]:
    names = {setting.variable: setting.name for setting in describe()}
    values: dict[str, str] = {}
    for variable in sorted(environment):
        if not variable.startswith(ENVIRONMENT_PREFIX) or variable in RESERVED_VARIABLES:
            continue
        if variable not in names:
            near = _nearest(variable.removeprefix(ENVIRONMENT_PREFIX).lower().replace("_", ".", 1))
            raise SettingsError(f"the environment variable {variable} names no setting{near}")
        values[names[variable]] = environment[variable]
    return values


def _convert(tree: dict[str, dict[str, Any]], origin: Mapping[str, str]) -> Settings:
    known = {setting.name for setting in describe()}
    for name in origin:
        if name not in known:
            raise SettingsError(f"there is no setting {name!r} (from {origin[name]}){_nearest(name)}")
    converted: dict[str, Any] = {}
    for section, values in tree.items():
        kind = type(getattr(Settings(), section))
        hints = get_type_hints(kind, include_extras=True)
        leaves = {leaf: _leaf(f"{section}.{leaf}", value, hints[leaf], origin) for leaf, value in values.items()}
        converted[section] = kind(**leaves)
    return Settings(**converted)


def _leaf(name: str, value: object, kind: Any, origin: Mapping[str, str]) -> object:
    try:
        # Text from the environment and the command line may stand for a number or a truth value; a file has types.
        return msgspec.convert(value, kind, strict=not isinstance(value, str))
    except msgspec.ValidationError as error:
        raise SettingsError(
            f"{name} = {value!r} (from {origin[name]}) is wrong: {error}; right is {explain(name)}"
        ) from error


def _check_relations(settings: Settings) -> None:
    segment, server, cluster = settings.segment, settings.server, settings.cluster
    if segment.flush_bytes_max > segment.segment_bytes_max:
        raise SettingsError(
            f"segment.flush_bytes_max = {segment.flush_bytes_max} is above "
            f"segment.segment_bytes_max = {segment.segment_bytes_max}; it must be at most that"
        )
    if segment.flush_bytes_max > segment.growing_bytes_max:
        raise SettingsError(
            f"segment.flush_bytes_max = {segment.flush_bytes_max} is above "
            f"segment.growing_bytes_max = {segment.growing_bytes_max}; it must be at most that"
        )
    if len(server.unix_path.encode()) > UNIX_PATH_BYTES_MAX:
        raise SettingsError(f"server.unix_path is longer than {UNIX_PATH_BYTES_MAX} bytes: {server.unix_path}")
    tls = [cluster.tls_certificate, cluster.tls_key, cluster.tls_authority]
    if any(tls) and not all(tls):
        raise SettingsError("cluster.tls_certificate, cluster.tls_key and cluster.tls_authority go together")
    if cluster.patience_s and cluster.patience_s <= cluster.lease_s + TAKE_OVER_S:
        raise SettingsError(
            f"cluster.patience_s = {cluster.patience_s} ends before a process that dies is replaced; it must be more "
            f"than cluster.lease_s and {TAKE_OVER_S:.0f} s, which are {cluster.lease_s + TAKE_OVER_S}"
        )
    if server.port and server.port == server.metrics_port:
        raise SettingsError(f"server.port and server.metrics_port are both {server.port}; they must differ")


# --- description ----------------------------------------------------------------------------------------------------


def _describe_field(name: str, field: msgspec.structs.FieldInfo) -> Setting:
    info = msgspec.inspect.type_info(field.type)
    schema = msgspec.json.schema(field.type)
    if isinstance(info, msgspec.inspect.Metadata):
        schema |= info.extra_json_schema or {}
    if "enum" in schema:
        kind, bounds = "one of " + ", ".join(schema["enum"]), ""
    else:
        kind = {"integer": "integer", "number": "number", "string": "text", "boolean": "true or false"}[schema["type"]]
        bounds = _bounds(schema)
    return Setting(name=name, kind=kind, default=field.default, bounds=bounds, description=schema["description"])


def _bounds(schema: Mapping[str, Any]) -> str:
    low = schema.get("minimum", schema.get("exclusiveMinimum"))
    high = schema.get("maximum")
    if low is not None and high is not None:
        return f"from {low} to {high}"
    return f"at least {low}" if low is not None else ""


def _nearest(name: str) -> str:
    """A hint with the known name most like `name`."""
    names = [setting.name for setting in describe()]
    leaves = [known for known in names if known.rpartition(".")[2] == name.rpartition(".")[2]]
    near = leaves or difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {near[0]!r}?" if near else "; `elanus settings` lists them all"
