"""How a noded begins: settings that cannot be used end it with one line and status 2."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import sys
from collections.abc import Generator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from daemonkit.httpclient import HttpClient, HttpRefused
from noded.daemon import main
from testkit.ports import free_port


@pytest.fixture(autouse=True)
def _umask() -> Generator[None, None, None]:
    """Give the test process back the mask that the daemon sets for itself."""
    before = os.umask(0o077)
    yield
    os.umask(before)


def write_settings(folder: Path, **changes: str) -> Path:
    """Write usable settings with secrets below *folder*; *changes* replace whole lines by their key."""
    for name in ("token", "superuser", "control", "replication", "probe"):
        (folder / name).write_text("secret")
        (folder / name).chmod(0o600)
    lines = {
        "node": '[node]\ncluster = "c"\nname = "n1"',
        "dir": f'dir = "{folder / "n1"}"',
        "socket_dir": f'socket_dir = "{folder / "s"}"',
        "postgres": '[postgres]\nhost = "127.0.0.1"\nport = 5999',
        "settings": "",
        "http": f'[http]\nhost = "127.0.0.1"\nport = 0\ntoken_file = "{folder / "token"}"',
        "secrets": "[secrets]",
        **{name: f'{name} = "{folder / name}"' for name in ("superuser", "control", "replication", "probe")},
    }
    path = folder / "noded.toml"
    path.write_text("\n".join({**lines, **changes}.values()) + "\n")
    return path


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"node": '[node]\ncluster = "c"\nname = "N 1"'}, "name"),
        ({"settings": "surprise = 1"}, "surprise"),
        ({"settings": 'settings = { fsync = "off" }'}, '"fsync" cannot be set'),
        ({"settings": 'hba = ["host all all all trust"]'}, "everybody proves who they are"),
        ({"probe": 'probe = "/nonexistent"'}, "/nonexistent"),
        ({"dir": 'dir = "/dev/null/n1"'}, "/dev/null"),
        ({"node": '[node]\ncluster = "c"\nname = "n1"\npg_bin = "/nonexistent"'}, "no usable PostgreSQL"),
    ],
)
def test_settings_that_cannot_be_used_end_it_with_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, str], said: str
) -> None:
    assert main(["--config", str(write_settings(tmp_path, **changes))]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_two_nodeds_never_work_in_one_directory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_settings(tmp_path)
    lock = tmp_path / "n1" / "state" / "lock"
    lock.parent.mkdir(parents=True)
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        assert main(["--config", str(path)]) == 1, "it may be gone at the next start"
    finally:
        os.close(descriptor)
    assert "another noded works in" in capsys.readouterr().err


async def test_a_running_noded_is_scraped_and_reads_its_log_level_again(tmp_path: Path) -> None:
    """It has no data directory, and starts no PostgreSQL."""
    port = free_port()
    place = f'[http]\nhost = "127.0.0.1"\nport = {port}\ntoken_file = "{tmp_path / "token"}"'
    path = write_settings(tmp_path, http=place)
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "noded.daemon", "--config", path, stdout=output, stderr=output, cwd=Path(__file__).parents[2]
        )
    try:
        async with asyncio.timeout(30), HttpClient(f"http://127.0.0.1:{port}", "secret") as client:
            while b"noded serves" not in log.read_bytes():
                await asyncio.sleep(0.02)
            samples = {
                (sample.name, *sample.labels.values()): sample.value
                for family in text_string_to_metric_families((await client.get("/metrics", timeout_s=5)).decode())
                for sample in family.samples
            }
            assert samples["endpointd_node_up",] == 0
            assert samples["endpointd_node_role", "none"] == 1
            assert samples["endpointd_node_disk_free_bytes",] > 0
            async with HttpClient(f"http://127.0.0.1:{port}") as stranger:
                with pytest.raises(HttpRefused):
                    await stranger.get("/metrics", timeout_s=5)
            text = path.read_text()
            for change, said in (
                ('[logs]\nlevel = "debug"\n', b"settings read anew"),
                ('[logs]\nlevel = "loud"\n', b"reload failed, the former settings stay"),
            ):
                path.write_text(text + change)
                process.send_signal(signal.SIGHUP)
                while said not in log.read_bytes():
                    await asyncio.sleep(0.02)
            await client.get("/status", timeout_s=5)
    finally:
        process.terminate()
        await process.wait()
    words = log.read_bytes()
    assert b"Traceback" not in words
    assert b"[logs].level: expected one of" in words
    assert b'got "loud"' in words
