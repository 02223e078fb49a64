"""What an operator may do about PostgreSQL's settings: look at them, try a change, make one.

A change is checked completely before anything is written: by the rules that are the cluster's, and by PostgreSQL itself on
every node that answers.  Then it is one write of the document; that every node goes by it is the decisions' business.
"""

from __future__ import annotations

import asyncio

import msgspec

from cluster_manager.decision.nodeview import NodeView
from cluster_manager.decision.observed_members import is_in_force
from cluster_manager.decision.view import View
from cluster_manager.not_done import NotDone, Refused, Unavailable, WrongQuestion
from cluster_manager.shell.reconciler import Reconciler
from pgtopology.codec import encode
from pgtopology.configuration import ConfigChange, ConfigChanged, ConfigView, NodeConfig, changed
from pgtopology.desired import DesiredSettings
from pgtopology.document import Topology
from pgtopology.node import NodeName
from pgtopology.orders import CheckSettings, SettingsChecked
from pgtopology.parameters import AT_LEAST_THE_WRITERS, SettingRefused, check, check_names

CHECK_TIMEOUT_S = 30.0
READ_TIMEOUT_S = 2.0
WRITTEN_TIMEOUT_S = 5.0
WRITTEN_POLL_S = 0.01


async def show(reconciler: Reconciler) -> ConfigView:
    """Return the settings and how far each node is. Raises NotDone."""
    view = reconciler.look()
    document = _document(view)
    desired = await _present(reconciler, document)
    return ConfigView(
        version=desired.version,
        parameters=desired.parameters,
        hba=desired.hba,
        relaxed_commits=desired.relaxed_commits,
        nodes=tuple(_node(node, document, view) for node in view.nodes),
    )


def _node(node: NodeView, document: Topology, view: View) -> NodeConfig:
    observation = node.observation
    if observation is None or not node.is_heard(view.timings):
        return NodeConfig(name=node.name, version=None, loaded=False, in_force=False, restart_for=())
    return NodeConfig(
        name=node.name,
        version=observation.desired_version,
        loaded=observation.loaded_version == document.desired.version == observation.desired_version,
        in_force=is_in_force(node, document),
        restart_for=observation.restart_for,
    )


async def change(reconciler: Reconciler, wish: ConfigChange) -> ConfigChanged:
    """Check *wish* and write it down, unless it is only to be checked. Raises NotDone if any of it is refused."""
    document = _document(reconciler.look())
    if document.writer is None and not (_only_takes_back(wish) and document.desired.version):
        raise Refused(
            f"there is no writer at this moment (epoch {document.epoch}): settings can only be reset until there is",
        )
    before = await _present(reconciler, document)
    if twice := {name.lower() for name in wish.parameters} & {name.lower() for name in wish.reset}:
        raise WrongQuestion(f'"{min(twice)}" is to be set and reset')
    try:
        check(DesiredSettings(parameters=wish.parameters, hba=wish.hba or ()))
        wanted = changed(before, wish)
        check(wanted)
        strays = _strays(before, wish)
    except SettingRefused as error:
        raise Refused(str(error)) from error
    if wanted == before and not strays:
        return ConfigChanged(version=before.version, changed=False, restart_for=())
    answer = await _judged(reconciler, document.writer, wish, CheckSettings(before=before, wanted=wanted, named=strays))
    if wanted == before:
        return ConfigChanged(version=before.version, changed=False, restart_for=())
    if wish.check_only:
        return ConfigChanged(version=before.version, changed=True, restart_for=answer.restart_for)
    await _write(reconciler, document.writer, document.desired, wanted)
    return ConfigChanged(version=wanted.version, changed=True, restart_for=answer.restart_for)


def _strays(before: DesiredSettings, wish: ConfigChange) -> tuple[str, ...]:
    """Return the names to be reset that are not given now: fine if PostgreSQL has such a parameter, else a slip of the pen.

    Raises SettingRefused for what can be no parameter's name.
    """
    strays = {name.lower() for name in wish.reset} - {name.lower() for name in before.parameters}
    check_names(sorted(strays))
    return tuple(sorted(strays))


async def _judged(
    reconciler: Reconciler, writer: NodeName | None, wish: ConfigChange, question: CheckSettings
) -> SettingsChecked:
    """Return what the nodes say to the change. Raises NotDone if one of them would not start with it."""
    if writer is None:
        return SettingsChecked()  # what is reset may be what keeps anybody from being asked, and from becoming the writer
    try:
        answer = await _ask(reconciler, writer, question)
    except Unavailable:
        if not _only_takes_back(wish):
            raise
        # What was set may be what keeps the check from being made: a default needs none.
        answer = SettingsChecked()
    if answer.refused is not None:
        raise Refused(answer.refused)
    await _ask_the_others(reconciler, writer, msgspec.structs.replace(question, as_writer=False))
    return answer


def _only_takes_back(wish: ConfigChange) -> bool:
    """Return whether *wish* does nothing but return to defaults, and to none that a start could fail with."""
    names = {name.lower() for name in wish.reset}
    adds = wish.parameters or wish.hba is not None or wish.relaxed_commits is not None or wish.whole
    return not adds and not names & {*AT_LEAST_THE_WRITERS, "wal_level"}


async def _ask(reconciler: Reconciler, name: NodeName, question: CheckSettings) -> SettingsChecked:
    return await reconciler.ask_node(name, "/check-settings", encode(question), SettingsChecked, timeout_s=CHECK_TIMEOUT_S)


async def _ask_the_others(reconciler: Reconciler, writer: NodeName, question: CheckSettings) -> None:
    """Raise NotDone if another node that can be asked would not start with the settings: it may lack a library."""
    view = reconciler.look()

    async def ask(name: NodeName) -> str | None:
        try:
            answer = await _ask(reconciler, name, question)
        except NotDone:
            return None  # it is down, or of a version that cannot be asked
        return f'on "{name}": {answer.refused}' if answer.refused is not None else None

    async with asyncio.TaskGroup() as tasks:
        asked = [
            tasks.create_task(ask(node.name)) for node in view.nodes if node.name != writer and node.is_heard(view.timings)
        ]
    refused = next((refusal for task in asked if (refusal := task.result()) is not None), None)
    if refused is not None:
        raise Refused(refused)


async def _present(reconciler: Reconciler, document: Topology) -> DesiredSettings:
    """Return the settings that hold: the document's, or those the cluster was made with, which its nodes know."""
    if document.desired.version or document.writer is None:
        return document.desired
    return await reconciler.ask_node(NodeName(document.writer), "/desired", None, DesiredSettings, timeout_s=READ_TIMEOUT_S)


async def _write(reconciler: Reconciler, writer: NodeName | None, before: DesiredSettings, wanted: DesiredSettings) -> None:
    """Have *wanted* written instead of *before*, and return when it is. Raises NotDone if something came between."""

    def edit(old: Topology) -> Topology:
        # Looked at again when it is written: what was checked was a change of *before*, by the writer that was there, if any.
        if old.desired != before or old.writer != writer:
            return old
        return msgspec.structs.replace(old, desired=wanted)

    reconciler.edit(edit, f"an operator changes PostgreSQL's settings to version {wanted.version}")
    try:
        async with asyncio.timeout(WRITTEN_TIMEOUT_S):
            while True:
                document = reconciler.document
                if document is not None and document.desired == wanted:
                    return
                if document is None or document.desired.version != before.version or document.writer != writer:
                    raise Refused("the settings or the writer changed meanwhile; give the order again")
                await asyncio.sleep(WRITTEN_POLL_S)
    except TimeoutError as error:
        raise Unavailable("the settings were not written in time; `endpointctl config show` tells") from error


def _document(view: View) -> Topology:
    if view.document is None:
        raise Refused("there is no cluster yet")
    return view.document
