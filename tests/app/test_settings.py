"""Settings come from four sources in rising priority, and a wrong one is refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from elanus.app import settings
from elanus.app.settings import Settings, SettingsError

ROOT = Path(__file__).resolve().parents[2]


def refusal(**sources: object) -> str:
    with pytest.raises(SettingsError) as caught:
        settings.load(**sources)  # type: ignore[arg-type]
    return caught.value.message


def test_defaults() -> None:
    assert settings.load() == Settings()


def test_priority(tmp_path: Path) -> None:
    file = tmp_path / "elanus.toml"
    file.write_text("[server]\nport = 1001\nmetrics_port = 1002\nhost = '127.0.0.2'\n[log]\npchannel_count = 9\n")
    environment = {"ELANUS_SERVER_PORT": "2001", "ELANUS_SERVER_METRICS_PORT": "2002", "PATH": "/bin"}
    loaded = settings.load(str(file), environment, {"server.port": 3001})
    assert (loaded.server.port, loaded.server.metrics_port, loaded.server.host) == (3001, 2002, "127.0.0.2")
    assert loaded.log.pchannel_count == 9


def test_text_becomes_numbers() -> None:
    loaded = settings.load(
        environment={"ELANUS_SERVER_STOP_GRACE_S": "1.5"},
        flags={"segment.flush_bytes_max": "70000"},
    )
    assert loaded.server.stop_grace_s == 1.5
    assert loaded.segment.flush_bytes_max == 70000


@pytest.mark.parametrize(
    ("sources", "words"),
    [
        ({"flags": {"server.prt": 1}}, ["server.prt", "command line", "did you mean 'server.port'"]),
        ({"flags": {"nowhere.port": 1}}, ["nowhere.port", "did you mean 'server.port'"]),
        ({"flags": {"server.port": 70000}}, ["server.port", "70000", "0 to 65535"]),
        ({"flags": {"server.port": "many"}}, ["server.port", "many", "integer"]),
        ({"environment": {"ELANUS_PORT": "1"}}, ["ELANUS_PORT", "did you mean 'server.port'"]),
        ({"environment": {"ELANUS_LOGGING_LEVEL": "loud"}}, ["logging.level", "environment", "debug"]),
        ({"flags": {"cluster.patience_s": "18", "cluster.lease_s": "15"}}, ["cluster.patience_s", "cluster.lease_s"]),
        ({"flags": {"cluster.reply_bytes_max": 2**30}}, ["cluster.reply_bytes_max"]),
        ({"flags": {"segment.flush_bytes_max": 2**31}}, ["segment.flush_bytes_max", "segment.segment_bytes_max"]),
        ({"flags": {"server.unix_path": "/" + "x" * 200}}, ["server.unix_path", "100"]),
        ({"flags": {"server.metrics_port": 19530}}, ["server.port", "server.metrics_port", "differ"]),
        ({"config": "/nowhere/elanus.toml"}, ["/nowhere/elanus.toml"]),
    ],
)
def test_wrong_ones_are_refused_by_name(sources: dict[str, object], words: list[str]) -> None:
    message = refusal(**sources)
    for word in words:
        assert word in message, message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("port = 1\n", ["port", "outside a table"]),
        ("[server]\nport = '1a'\n", ["server.port", "elanus.toml"]),
        ("[server\n", ["not TOML"]),
        ("[server]\nhostt = 'x'\n", ["server.hostt", "server.host"]),
    ],
)
def test_wrong_files_are_refused(tmp_path: Path, text: str, words: list[str]) -> None:
    file = tmp_path / "elanus.toml"
    file.write_text(text)
    message = refusal(config=str(file))
    for word in words:
        assert word in message, message


def test_every_setting_explains_itself() -> None:
    for setting in settings.describe():
        assert len(setting.description) > 20, setting.name
        assert setting.variable.startswith("ELANUS_")
        assert settings.explain(setting.name)


def test_the_page_lists_them_all() -> None:
    page = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    assert page == settings.markdown(), "run: elanus settings --markdown > docs/settings.md"
