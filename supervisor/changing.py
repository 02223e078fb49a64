"""Adding a node to a running local cluster, and taking one out: what the supervisor does about it.

Every step is written down in cluster.json before it is taken, and can be taken again: whoever is killed in the middle leaves
a plan that says what is still to be done, and the next supervisor does it.  A node that leaves goes in this order: the manager
is told and makes it no voter, step by step; it is taken out of the plan and of the manager's settings; its programs are
stopped; its directory is put aside, or removed where that was asked for.  Who may leave is the manager's to say.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Callable, Coroutine, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from daemonkit.exits import Failure
from daemonkit.logs import get_logger
from deployment.local.directory import write_passfile, write_plan, write_settings
from deployment.local.layout import Layout
from deployment.local.plan import MANAGER_PROGRAM, Plan, node_ports
from deployment.local.planning import choose_node, with_leaving, with_node, without_leaving, without_node
from deployment.local.settings_files import preferences_in_force, settings_files
from deployment.local.tls import make_certificates
from pgtopology.supervision import PlannedNode
from supervisor.ports import conflicts
from supervisor.stopping import stop_node

if TYPE_CHECKING:
    from daemonkit.oneshot import OneShotClient
    from pgtopology.document import Topology

POLL_S = 0.2
ASK_AGAIN_S = 3.0
"""A mark that the manager did not write down in this time was lost with a manager that died."""
REQUEST_S = 2.0
FORGOTTEN_S = 5.0
"""For proxies to send readers elsewhere before the node stops; after that it stops all the same."""


class Programs(Protocol):
    """The supervisor's hands."""

    def begin(self, name: str) -> None:
        """Keep the program called *name* running from now on."""
        ...

    def let_end(self, name: str) -> None:
        """Do not start it again when it ends."""
        ...

    async def forget(self, name: str) -> None:
        """Have nothing to do with it any more."""
        ...

    def reload_manager(self) -> None:
        """Have the manager read its nodes anew."""
        ...


class Changes:
    """Holds the plan, and changes it."""

    def __init__(
        self,
        layout: Layout,
        plan: Plan,
        programs: Programs,
        spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
    ) -> None:
        self._layout = layout
        self._plan = plan
        self._programs = programs
        self._spawn = spawn
        self._leavings: dict[str, asyncio.Task[None]] = {}
        self._ended = False
        self._log = get_logger()

    @property
    def plan(self) -> Plan:
        """The cluster as it is meant to be now."""
        return self._plan

    def resume(self) -> None:
        """Go on with what an earlier supervisor left undone."""
        for one in self._plan.leaving:
            self._lead_out(one.node.name)

    async def end(self) -> None:
        """Change nothing more; what is undone is for the next supervisor."""
        self._ended = True
        tasks = list(self._leavings.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def knows(self, name: str) -> bool:
        """Return whether there is a node *name*, or anything left to do about one."""
        return self._plan.find(name) is not None or self._plan.find_leaving(name) is not None

    def propose(self, name: str | None, zone: str | None) -> PlannedNode:
        """Return the node that `add` would add. Raises Failure as it would, as far as that can be known beforehand."""
        if self._ended:
            raise Failure("the cluster is being stopped", hint="bring it back with `endpointctl up` first")
        node = choose_node(self._plan, name, zone, is_in_the_way=lambda taken: self._layout.node(taken).exists())
        if self._plan.find(node.name) is None:
            self._require_ports(node)
        return node

    def add(self, name: str | None, zone: str | None) -> PlannedNode:
        """Make *name*, or else the first free name, a node and start it. Raises Failure.

        For a node that is there already everything is written and started again: so an interrupted command is repeated.
        """
        node = self.propose(name, zone)
        try:
            if self._plan.find(node.name) is None:
                self._write(with_node(self._plan, node))
            make_certificates(self._layout, self._plan, datetime.now(UTC))
            files = settings_files(self._plan, self._layout, preferences_in_force(self._layout, self._plan))
            wanted = {self._layout.settings_file(node.name), self._layout.settings_file(MANAGER_PROGRAM)}
            write_settings({path: text for path, text in files.items() if path in wanted})
        except (OSError, ValueError) as error:
            raise Failure(f'"{node.name}" cannot be added: {error}', hint="then give the order again") from error
        self._programs.begin(node.name)
        self._programs.reload_manager()
        self._log.info("node added", node=node.name, port=node.port)
        return node

    async def remove(self, name: str, *, purge: bool, marked: bool, headers: Mapping[str, str]) -> None:
        """Have the manager agree that *name* leaves, unless it was *marked* by it, and begin to lead it out. Raises Failure."""
        from daemonkit.httpanswers import HttpError, HttpRefused

        node = self._plan.find(name)
        earlier = self._plan.find_leaving(name)
        if node is None and earlier is None:
            raise Failure(f'there is no node "{name}"', hint=f"there are {', '.join(self._plan.names)}")
        if earlier is None and not marked:
            try:
                client = self._manager(headers)
                await _mark(client, name)
            except HttpRefused as error:
                raise Failure(error.message or str(error)) from error
            except HttpError as error:
                raise Failure(f"the manager does not answer: {error}", hint="see `endpointctl logs cluster_manager`") from error
        if self._ended:
            raise Failure("the cluster is being stopped", hint="give the order again after `endpointctl up`")
        try:
            if (wanted := with_leaving(self._plan, name, purge=purge)) != self._plan:
                self._write(wanted)  # who asks how far it is gives the same order again
        except OSError as error:
            raise Failure(f'"{name}" cannot be taken out: {error}', hint="then give the order again") from error
        self._lead_out(name)

    def _lead_out(self, name: str) -> None:
        task = self._leavings.get(name)
        if task is None or task.done():
            self._leavings[name] = self._spawn(self._take_out(name))

    async def _take_out(self, name: str) -> None:
        """Do all that is left to do about a node that leaves. An error ends it; the order can be given again."""
        from daemonkit.httpanswers import HttpRefused
        from daemonkit.secrets import SecretError

        try:
            client = self._manager()
            if self._plan.find(name) is not None:
                await self._until_no_voter(client, name)
                self._write(without_node(self._plan, name))
                self._log.info("node is no voter any more and is taken out", node=name)
            files = settings_files(self._plan, self._layout, preferences_in_force(self._layout, self._plan))
            manager_file = self._layout.settings_file(MANAGER_PROGRAM)
            write_settings({manager_file: files[manager_file]})
            self._programs.reload_manager()
            await self._until_forgotten(client, name)
            self._programs.let_end(name)
            await stop_node(self._layout, name, lambda line: self._log.info("stopping a node", node=name, step=line))
            await self._programs.forget(name)
            await self._clear(name)
            self._write(without_leaving(self._plan, name))
        except HttpRefused as error:
            self._log.error("node stays", node=name, reason=error.message)
            self._write(without_leaving(self._plan, name))
        except (OSError, ValueError, SecretError) as error:
            # The supervision of everything else goes on; the order can be given again.
            self._log.error("node could not be taken out", node=name, reason=str(error))

    async def _until_no_voter(self, client: OneShotClient, name: str) -> None:
        """Wait until the document says that *name* leaves and votes no more, or has none. Raises HttpRefused if it may not."""
        asked_at = time.monotonic()
        while True:
            document = await _document(client)
            if document is not None and _is_marked_or_unknown(document, name):
                if document.writer != name and (document.voters is None or document.voters.find(name) is None):
                    return
            elif document is not None and time.monotonic() - asked_at > ASK_AGAIN_S:
                asked_at = time.monotonic()
                await _mark_patiently(client, name)
            await asyncio.sleep(POLL_S)

    async def _until_forgotten(self, client: OneShotClient, name: str) -> None:
        """Wait until the document no longer has *name*, within bounds."""
        deadline = time.monotonic() + FORGOTTEN_S
        while time.monotonic() < deadline:
            document = await _document(client)
            if document is not None and document.member(name) is None:
                return
            await asyncio.sleep(POLL_S)

    async def _clear(self, name: str) -> None:
        """Remove the node's small files, and its directory or put that aside."""
        leaving = self._plan.find_leaving(name)
        place = self._layout.node(name)
        if place.exists():
            if leaving is not None and leaving.purge:
                await asyncio.to_thread(shutil.rmtree, place)
                self._log.info("the data of a removed node is gone", node=name)
            else:
                aside = free_name(place, datetime.now(UTC))
                place.rename(aside)
                self._log.info("the data of a removed node is kept", node=name, directory=str(aside))
        shutil.rmtree(self._layout.sockets / name, ignore_errors=True)
        for path in (self._layout.settings_file(name), self._layout.record(name)):
            path.unlink(missing_ok=True)
        write_passfile(self._layout, self._plan)

    def _write(self, plan: Plan) -> None:
        write_plan(self._layout, plan)
        if plan.names != self._plan.names:
            write_passfile(self._layout, plan)
        self._plan = plan

    def _require_ports(self, node: PlannedNode) -> None:
        taken = conflicts(node_ports(node))
        if taken:
            first = taken[0]
            raise Failure(
                f"TCP port {first.use.port} for {first.use.purpose} is held by {first.holder.description}",
                hint="end that, or add a node of another name",
            )

    def _manager(self, headers: Mapping[str, str] | None = None) -> OneShotClient:
        from daemonkit.oneshot import OneShotClient
        from daemonkit.secrets import read_secret
        from pgtopology.act import act_headers

        said = act_headers("the supervisor", "carries on a removal") if headers is None else headers
        return OneShotClient(self._plan.api, read_secret(self._layout.token), headers=said)


def free_name(place: Path, now: datetime) -> Path:
    """Return where the data of a node that left is put: beside *place*, with the time in its name."""
    return place.with_name(f"{place.name}.removed-{now:%Y%m%dT%H%M%S}")


def _is_marked_or_unknown(document: Topology, name: str) -> bool:
    member = document.member(name)
    return member is None or member.leaving


async def _mark(client: OneShotClient, name: str) -> None:
    await client.post(f"/v1/nodes/{name}/remove", b'{"force":false}', timeout_s=REQUEST_S)


async def _mark_patiently(client: OneShotClient, name: str) -> None:
    """Order it again; a manager that is away is asked later."""
    from daemonkit.httpanswers import HttpUnavailable

    try:
        await _mark(client, name)
    except HttpUnavailable:
        return


async def _document(client: OneShotClient) -> Topology | None:
    """Return the manager's document, or None while it has none or is away."""
    from daemonkit.httpanswers import HttpError
    from pgtopology.codec import MessageError, decode
    from pgtopology.document import Topology

    try:
        return decode(await client.get("/v1/topology", timeout_s=REQUEST_S), Topology)
    except (HttpError, MessageError):
        return None
