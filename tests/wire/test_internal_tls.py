"""Mutual TLS between processes: who has a certificate of the authority gets in, and nobody else."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from test_internal_transport import Loopback, play

from elanus.app.node import tls_of
from elanus.app.settings import ClusterSettings
from elanus.base.errors import UnavailableError
from elanus.testing.conformance_transport import Desk, Postman, raised
from elanus.wire.internal import Link, Tls


def certificates(folder: Path, name: str) -> Tls | None:
    """An authority, and a certificate for `elanus` that it signed; by openssl."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl")
    files = {part: folder / f"{name}-{part}.pem" for part in ("ca", "ca-key", "key", "request", "certificate")}
    extensions = folder / f"{name}.ext"
    extensions.write_text("subjectAltName=DNS:elanus\n")
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    for words in (
        ("req", "-x509", *key, "-keyout", files["ca-key"], "-out", files["ca"], "-subj", "/CN=authority"),
        ("req", *key, "-keyout", files["key"], "-out", files["request"], "-subj", "/CN=elanus"),
        (
            *("x509", "-req", "-in", files["request"], "-CA", files["ca"], "-CAkey", files["ca-key"]),
            *("-CAcreateserial", "-extfile", extensions, "-out", files["certificate"]),
        ),
    ):
        subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True)
    return tls_of(
        ClusterSettings(
            tls_certificate=str(files["certificate"]),
            tls_key=str(files["key"]),
            tls_authority=str(files["ca"]),
            tls_name="elanus",
        )
    )


@pytest.mark.slow
def test_only_the_authority_s_own_get_in(tmp_path: Path) -> None:
    ours, theirs = certificates(tmp_path, "ours"), certificates(tmp_path, "theirs")

    async def scenario(network: Loopback) -> None:
        secure = replace(network.link, tls=ours)
        member = network.join(secure)
        desk = Desk()
        address = await member.serve({Postman: desk})
        assert await network.join(secure).connect(address, Postman).add(1) == 2
        for link in (network.link, replace(network.link, tls=theirs)):
            error = await raised(_outsider(network, link, address))
            assert isinstance(error, UnavailableError), repr(error)
        assert desk.begun == 0
        await member.close()

    play(scenario)


async def _outsider(network: Loopback, link: Link, address: str) -> int:
    return await asyncio.wait_for(network.join(link).connect(address, Postman).wait(0.0), 10)
