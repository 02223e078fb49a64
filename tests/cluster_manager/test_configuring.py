"""A change of PostgreSQL's settings: asked about first, written once, and refused when something came between."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

import msgspec
import pytest

from cluster_manager.decision.view import View
from cluster_manager.not_done import NotDone, NotFound, Refused, Unavailable
from cluster_manager.operations import configuring
from pgtopology.codec import decode
from pgtopology.configuration import ConfigChange
from pgtopology.desired import DesiredSettings
from pgtopology.document import Topology
from pgtopology.orders import CheckSettings, SettingsChecked
from tests.cluster_manager.decision.storyboard import read_view

INITIAL = DesiredSettings(parameters={"jit": "off"})


class Stage:
    """What a change meets instead of a running manager: a view, nodes that answer as told, edits that are written or not."""

    def __init__(self, story: str = "") -> None:
        self.view = read_view(story)
        self.answers: dict[str, SettingsChecked | NotDone] = {}
        self.asked: list[tuple[str, CheckSettings]] = []
        self.writes = 0
        self.before_the_write: Callable[[Topology], Topology] = lambda document: document

    @property
    def document(self) -> Topology | None:
        return self.view.document

    def look(self) -> View:
        return self.view

    async def ask_node(self, name: str, path: str, body: bytes | None, kind: type, *, timeout_s: float) -> object:
        del kind, timeout_s
        if path == "/desired":
            return INITIAL
        assert body is not None
        self.asked.append((name, decode(body, CheckSettings)))
        answer = self.answers.get(name, SettingsChecked())
        if isinstance(answer, NotDone):
            raise answer
        return answer

    def edit(self, change: Callable[[Topology], Topology], because: str) -> None:
        assert because
        assert self.document is not None
        before = self.before_the_write(self.document)
        after = change(before)
        self.writes += after != before
        self.view = replace(self.view, document=after)

    def change(self, wish: ConfigChange) -> object:
        return asyncio.run(configuring.change(self, wish))  # pyright: ignore[reportArgumentType]


def refused(stage: Stage, wish: ConfigChange) -> NotDone:
    with pytest.raises(NotDone) as caught:
        stage.change(wish)
    return caught.value


WISH = ConfigChange(parameters={"work_mem": "7MB"})


def test_a_change_takes_over_what_the_cluster_was_made_with() -> None:
    stage = Stage()
    stage.answers["n1"] = SettingsChecked(restart_for=("a",))
    told = stage.change(WISH)
    assert (told.version, told.changed, told.restart_for) == (1, True, ("a",))  # pyright: ignore[reportAttributeAccessIssue]
    assert stage.document is not None
    assert stage.document.desired == DesiredSettings(version=1, parameters={"jit": "off", "work_mem": "7MB"})
    assert [(name, question.as_writer) for name, question in stage.asked] == [("n1", True), ("n2", False), ("n3", False)]
    assert stage.asked[0][1].before == INITIAL


@pytest.mark.parametrize("node", ["n1", "n2"])
def test_what_a_node_refuses_is_not_written(node: str) -> None:
    stage = Stage()
    stage.answers[node] = SettingsChecked(refused="no such library")
    assert "no such library" in str(refused(stage, WISH))
    assert stage.writes == 0


def test_another_node_that_cannot_be_asked_does_not_count_but_the_writer_does() -> None:
    stage = Stage()
    stage.answers["n2"] = NotFound("of an older version")
    stage.change(WISH)
    stage = Stage("node n2 age=9000")
    stage.change(WISH)
    assert [name for name, _ in stage.asked] == ["n1", "n3"]
    stage = Stage()
    stage.answers["n1"] = Unavailable("PostgreSQL is starting")
    assert isinstance(refused(stage, WISH), Unavailable)
    assert stage.writes == 0


@pytest.mark.parametrize(
    ("wish", "is_taken"),
    [
        (ConfigChange(reset=("jit",)), True),
        (ConfigChange(reset=("jit",), parameters={"work_mem": "7MB"}), False),
        (ConfigChange(reset=("jit", "wal_level")), False),
    ],
)
def test_what_only_takes_back_needs_no_check_where_none_can_be_made(wish: ConfigChange, is_taken: bool) -> None:
    stage = Stage()
    stage.answers["n1"] = Unavailable("the settings cannot be checked now: 25P04")
    if is_taken:
        stage.change(wish)
        assert stage.document is not None
        assert stage.document.desired == DesiredSettings(version=1)
    else:
        assert isinstance(refused(stage, wish), Unavailable)
        assert stage.writes == 0


@pytest.mark.parametrize(
    "wish",
    [
        ConfigChange(parameters={"fsync": "off"}),
        ConfigChange(hba=("host all all all trust",)),
        ConfigChange(parameters={"work_mem": "1", "WORK_MEM": "2"}),
        ConfigChange(parameters={"work_mem": "1MB"}, reset=("work_mem",)),
        ConfigChange(parameters={"application_name": "n2_aaaaaa"}),
        ConfigChange(reset=("no such",)),
    ],
)
def test_what_is_refused_by_rule_is_asked_of_nobody(wish: ConfigChange) -> None:
    stage = Stage()
    assert isinstance(refused(stage, wish), Refused)
    assert (stage.asked, stage.writes) == ([], 0)


def test_nothing_is_written_without_a_difference_or_when_it_is_only_checked() -> None:
    stage = Stage()
    stage.change(ConfigChange(parameters={"jit": "off"}))
    stage.change(msgspec.structs.replace(WISH, check_only=True))
    assert stage.writes == 0


def test_what_is_not_given_may_be_taken_back_if_postgresql_has_such_a_parameter() -> None:
    stage = Stage()
    stage.change(ConfigChange(reset=("jit", "work_mem", "Shared_Buffers"), check_only=True))
    assert {question.named for _, question in stage.asked} == {("shared_buffers", "work_mem")}
    stage.change(ConfigChange(reset=("work_mem",)))
    assert stage.writes == 0
    stage.answers["n1"] = SettingsChecked(refused='there is no parameter "nosuch" in this PostgreSQL')
    assert "nosuch" in str(refused(stage, ConfigChange(reset=("nosuch",))))
    assert stage.writes == 0


def test_settings_wait_for_a_writer() -> None:
    assert "no writer" in str(refused(Stage("transition failover recruiting from=n1"), WISH))


def test_a_change_that_another_overtook_is_refused() -> None:
    stage = Stage("document settings=3")
    other = DesiredSettings(version=4, parameters={"jit": "on"})
    stage.before_the_write = lambda document: msgspec.structs.replace(document, desired=other)
    assert "meanwhile" in str(refused(stage, WISH))
    assert stage.document is not None
    assert stage.document.desired == other
