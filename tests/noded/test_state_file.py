"""The durable state on a bad disk: an unreadable file is no empty state, and what cannot be written has not happened."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from noded.law.durable_state import DurableState, StateError
from pgtopology.epoch import Epoch
from pgtopology.node import NodeName

NAME = NodeName("n1")


@pytest.mark.parametrize("torn", [b"", b"{torn"])
def test_an_unreadable_file_is_kept_and_nothing_is_stored_over_it_until_it_is_renewed(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "state.json"
    path.write_bytes(torn)
    state = DurableState(path, cluster="c", node=NAME)
    assert state.unreadable is not None
    assert str(path) in state.unreadable
    with pytest.raises(OSError, match="cannot be read"):
        state.store(replace(state.value, promised=Epoch(3)))
    assert path.read_bytes() == torn
    state.renew()
    state.store(replace(state.value, promised=Epoch(3)))
    assert DurableState(path, cluster="c", node=NAME).value.promised == 3
    assert (tmp_path / "state.json.unreadable").read_bytes() == torn


def test_anothers_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    DurableState(path, cluster="c", node=NAME).store(replace(DurableState(path, cluster="c", node=NAME).value, whole=True))
    with pytest.raises(StateError, match="belongs to node"):
        DurableState(path, cluster="other", node=NAME)


def test_what_cannot_be_written_is_not_so_and_is_told_of_until_it_can(tmp_path: Path) -> None:
    place = tmp_path / "gone"
    place.mkdir()
    state = DurableState(place / "state.json", cluster="c", node=NAME)
    place.rmdir()
    wanted = replace(state.value, promised=Epoch(3))
    with pytest.raises(OSError, match="No such file"):
        state.store(wanted)
    assert state.value.promised == 0
    assert "No such file" in (state.problem or "")
    assert not state.try_again()
    place.mkdir()
    assert state.try_again()
    assert state.problem is None
    assert DurableState(place / "state.json", cluster="c", node=NAME).value == state.value
    assert not state.try_again(), "there is nothing to find out"
    state.store(wanted)
    assert (state.value.promised, state.problem) == (3, None)
