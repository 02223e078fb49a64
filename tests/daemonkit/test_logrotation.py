"""Log files stay bounded: what is kept of them, the memory it takes, and what a disk without room does to it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from daemonkit.logrotation import rotate


def test_a_grown_file_is_kept_aside_and_emptied_in_place(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    with path.open("ab", buffering=0) as writer:
        writer.write(b"old lines enough\n")
        assert not rotate(path, file_bytes_max=17)
        assert rotate(path, file_bytes_max=16)
        writer.write(b"new\n")
    assert path.read_text() == "new\n"
    assert (tmp_path / "x.log.1").read_text() == "old lines enough\n"
    assert not rotate(path)


def test_a_missing_file_is_no_reason_to_stop(tmp_path: Path) -> None:
    assert not rotate(tmp_path / "none.log")


def test_of_a_huge_file_beginning_and_end_are_kept_and_no_memory_is_taken_for_it(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    size = 300 << 20
    with path.open("wb") as file:
        file.write(b"begin\n")
        file.truncate(size - 4)
        file.seek(0, 2)
        file.write(b"end\n")
    program = (
        "import resource, sys\nfrom pathlib import Path\nfrom daemonkit.logrotation import rotate\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\nassert rotate(Path(sys.argv[1]))\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    grown_kib = int(subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, check=True).stdout)
    assert grown_kib < 16 << 10
    assert path.stat().st_size == 0
    kept = (tmp_path / "x.log.1").read_bytes()
    assert len(kept) < 33 << 20
    assert kept.startswith(b"begin\n")
    assert kept.endswith(b"end\n")
    assert f"\n... {size - (32 << 20)} bytes were left out here ...\n".encode() in kept


def test_what_finds_no_room_stays_until_it_is_too_long(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    path.write_bytes(b"x" * 100)
    (tmp_path / "x.log.1").mkdir()
    assert not rotate(path, file_bytes_max=10, kept_bytes_max=100)
    assert path.stat().st_size == 100
    assert rotate(path, file_bytes_max=10, kept_bytes_max=99)
    assert path.stat().st_size == 0
