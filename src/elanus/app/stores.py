"""Opening the ports by URL: where metadata, objects and the log live.

    meta     etcd://[USER:PASSWORD@]HOST:PORT[,HOST:PORT…]/PREFIX     etcds:// for TLS
             sqlite:///absolute/path/meta.db                          one process
    objects  s3://BUCKET/PREFIX    az://CONTAINER/PREFIX    gs://BUCKET/PREFIX
             file:///absolute/folder                                  processes of one machine
    log      store://                                                 on the object store

Credentials and endpoints come from the usual environment variables: AWS_* for s3, AZURE_STORAGE_* for az, GOOGLE_* for
gs, ETCDCTL_USER (user:password), ETCDCTL_CACERT, ETCDCTL_CERT and ETCDCTL_KEY (PEM files) for etcd. Every object store
is probed before it is returned.
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import SplitResult, unquote, urlsplit

from elanus.base.doors import Doors
from elanus.base.errors import Action, ElanusError
from elanus.meta.etcd import open_etcd
from elanus.meta.etcd_client import Options
from elanus.meta.sqlite import open_sqlite
from elanus.meta.store import MetaStore
from elanus.objects import paths
from elanus.objects.posix import open_posix
from elanus.objects.probe import probe
from elanus.objects.remote import Location, open_remote
from elanus.objects.store import ObjectStore
from elanus.wal.log import SharedLog
from elanus.wal.objects import ObjectLog

_ENDPOINTS = {
    "s3": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"),
    "az": ("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"),
    "gs": ("GOOGLE_BASE_URL",),
}


class StoreUrlError(ElanusError):
    """A URL that names no store. Nothing was opened."""

    code = 1100
    action = Action.FIX_REQUEST


async def open_meta(doors: Doors, url: str, environment: Mapping[str, str]) -> MetaStore:
    """The meta store behind a URL. StoreUrlError, UnavailableError, StorageError, InUseError."""
    parts = _split(url)
    if parts.scheme in ("etcd", "etcds"):
        return await open_etcd(doors, await _etcd_options(doors, parts, environment))
    if parts.scheme == "sqlite":
        return await open_sqlite(doors, _path(parts))
    raise StoreUrlError(f"{url}: a meta store is etcd://, etcds:// or sqlite://")


async def open_objects(doors: Doors, url: str, environment: Mapping[str, str]) -> ObjectStore:
    """The object store behind a URL, probed. StoreUrlError, StorageError, UnsafeStoreError."""
    parts = _split(url)
    store: ObjectStore
    if parts.scheme == "file":
        store = await open_posix(doors, _path(parts), shared=True)
    elif parts.scheme in _ENDPOINTS:
        store = await open_remote(doors, _location(parts, environment))
    else:
        raise StoreUrlError(f"{url}: an object store is s3://, az://, gs:// or file://")
    await probe(store, paths.probe(doors.random.token()))
    return store


def open_log(doors: Doors, url: str, objects: ObjectStore) -> SharedLog:
    """The log behind a URL, on an object store that was probed. StoreUrlError."""
    if _split(url).scheme == "store":
        return ObjectLog(doors, objects)
    raise StoreUrlError(f"{url}: a log is store://")


def _location(parts: SplitResult, environment: Mapping[str, str]) -> Location:
    """Endpoints without TLS have to be allowed; whoever names one wants it."""
    if not parts.netloc:
        raise StoreUrlError(f"{parts.geturl()}: {parts.scheme}://BUCKET/PREFIX")
    endpoint = next((environment[name] for name in _ENDPOINTS[parts.scheme] if environment.get(name)), "")
    options = {"client": {"allow_http": True}} if endpoint.startswith("http://") else {}
    return Location(scheme=parts.scheme, bucket=parts.netloc, prefix=parts.path.strip("/"), options=options)


async def _etcd_options(doors: Doors, parts: SplitResult, environment: Mapping[str, str]) -> Options:
    credentials, _, hosts = parts.netloc.rpartition("@")
    credentials = unquote(credentials) or environment.get("ETCDCTL_USER", "")
    user, _, password = credentials.partition(":")
    endpoints = tuple(host if ":" in host else f"{host}:2379" for host in hosts.split(",") if host)
    if not endpoints:
        raise StoreUrlError(f"{parts.geturl()}: etcd://HOST:PORT/PREFIX")

    async def pem(name: str) -> bytes | None:
        path = environment.get(name, "")
        return await doors.compute.run_io(doors.files.read, path) if path else None

    return Options(
        endpoints=endpoints,
        prefix=parts.path.strip("/"),
        user=user,
        password=password or environment.get("ETCDCTL_PASSWORD", ""),
        tls=parts.scheme == "etcds",
        authority=await pem("ETCDCTL_CACERT"),
        certificate=await pem("ETCDCTL_CERT"),
        private_key=await pem("ETCDCTL_KEY"),
    )


def _split(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError as error:
        raise StoreUrlError(f"{url}: {error}") from None


def _path(parts: SplitResult) -> str:
    path = unquote(parts.path)
    if parts.netloc or not path.strip("/"):
        raise StoreUrlError(f"{parts.geturl()}: {parts.scheme}:///ABSOLUTE/PATH")
    return path
