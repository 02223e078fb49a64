"""What befalls a cluster in a soak: single acts on a running local cluster, chosen by chance and undone by themselves.

Knows processes and commands; whether the cluster survives is for others to find out.  An act leaves nothing frozen and nothing
ordered down when it returns.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from pgtopology.status import NodeStatus, Status
from testkit.cluster import Cluster
from testkit.injuries import PROGRAMS, Part, frozen, kill, pids_of
from testkit.processes import send_all

FROZEN_S = (0.2, 5.0)
DOWN_S = (0.5, 4.0)


@dataclass(frozen=True, slots=True)
class Scene:
    """What an act may lay hands on."""

    cluster: Cluster
    status: Status
    """As it was just before."""
    random: Random

    @property
    def any_node(self) -> NodeStatus:
        """One of the nodes that run, the writer as often as all others together."""
        running = [node for node in self.status.nodes if node.pid is not None] or list(self.status.nodes)
        writer = [node for node in running if node.name == self.status.writer]
        return self.random.choice(writer if writer and self.random.random() < 0.5 else running)

    @property
    def any_replica(self) -> NodeStatus:
        """One of the other nodes."""
        return self.random.choice([node for node in self.status.nodes if node.name != self.status.writer])

    def wait_s(self, between: tuple[float, float]) -> None:
        """Let some time pass."""
        time.sleep(self.random.uniform(*between))


Act = Callable[[Scene], str]
"""Does it and returns what was done, with names."""


@dataclass(frozen=True, slots=True)
class Mishap:
    """One kind of act."""

    name: str
    weight: int
    """How often, beside the others."""
    act: Act
    needs_health: bool = False
    """Whether it is an order that is only given to a healthy cluster."""


def kill_one(part: Part) -> Act:
    """Return the act of killing *part*, of any node where nodes have it."""

    def act(scene: Scene) -> str:
        node = None if part in PROGRAMS else scene.any_node
        kill(scene.cluster, part, node)
        return part if node is None else node.name

    return act


def freeze_one(part: Part) -> Act:
    """Return the act of freezing *part* for a while, of any node where nodes have it."""

    def act(scene: Scene) -> str:
        node = None if part in PROGRAMS else scene.any_node
        with frozen(scene.cluster, part, node):
            scene.wait_s(FROZEN_S)
        return part if node is None else node.name

    return act


def freeze_manager(scene: Scene) -> str:
    """SIGSTOP to the manager for a while, and perhaps a death meanwhile."""
    node = scene.any_node if scene.random.random() < 0.5 else None
    with frozen(scene.cluster, Part.MANAGER):
        if node is not None:
            kill(scene.cluster, Part.POSTGRES, node)
        scene.wait_s(FROZEN_S)
    return f"manager, {node.name} killed meanwhile" if node is not None else "manager"


def kill_supervisor(scene: Scene) -> str:
    """SIGKILL to the supervisor, perhaps a node dies unseen, and `up` adopts what is left."""
    kill(scene.cluster, Part.SUPERVISOR)
    node = scene.any_node if scene.random.random() < 0.5 else None
    if node is not None:
        kill(scene.cluster, Part.NODE, node)
    scene.wait_s(DOWN_S)
    scene.cluster.up()
    return f"supervisor, {node.name} killed meanwhile" if node is not None else "supervisor"


def kill_everything(scene: Scene) -> str:
    """SIGKILL to every process at once, as a power failure would, and `up`."""
    # The supervisor first: it would start the others again.
    pids = [pid for part in (Part.SUPERVISOR, Part.MANAGER, Part.PROXY) for pid in pids_of(scene.cluster, part)]
    pids += [pid for node in scene.status.nodes for pid in pids_of(scene.cluster, Part.NODE, node)]
    send_all(pids, signal.SIGKILL)
    scene.cluster.up()
    return "everything"


def down_and_up(scene: Scene) -> str:
    """An orderly stop and start of everything."""
    scene.cluster.down()
    scene.cluster.up()
    return "everything"


def switchover(scene: Scene) -> str:
    """The planned handover, to somebody or whoever is best."""
    target = scene.any_replica.name if scene.random.random() < 0.5 else None
    return _order(scene, "switchover", *(("--to", target) if target is not None else ()))


def failover(scene: Scene) -> str:
    """The ordered failover of a healthy writer."""
    return _order(scene, "failover")


def stop_and_start(scene: Scene) -> str:
    """A replica is down for maintenance."""
    name = scene.any_replica.name
    said = _order(scene, "node", "stop", name)
    scene.wait_s(DOWN_S)
    return f"{said}; {_order(scene, 'node', 'start', name)}"


def restart_replica(scene: Scene) -> str:
    """A replica is restarted."""
    return _order(scene, "node", "restart", scene.any_replica.name)


def reinit_replica(scene: Scene) -> str:
    """A replica is made anew."""
    return _order(scene, "node", "reinit", scene.any_replica.name, "--yes")


def _order(scene: Scene, *arguments: str) -> str:
    done = scene.cluster.ctl(*arguments, check=False)
    said = (done.stderr or done.stdout).strip().splitlines()
    return " ".join(arguments) + (f" (exit {done.returncode}: {said[0] if said else ''})" if done.returncode != 0 else "")


MISHAPS = (
    Mishap("kill-postmaster", 4, kill_one(Part.POSTMASTER)),
    Mishap("kill-postgres", 5, kill_one(Part.POSTGRES)),
    Mishap("kill-noded", 3, kill_one(Part.NODED)),
    Mishap("kill-node", 4, kill_one(Part.NODE)),
    Mishap("kill-manager", 3, kill_one(Part.MANAGER)),
    Mishap("kill-proxy", 2, kill_one(Part.PROXY)),
    Mishap("freeze-node", 4, freeze_one(Part.NODE)),
    Mishap("freeze-postgres", 3, freeze_one(Part.POSTGRES)),
    Mishap("freeze-noded", 2, freeze_one(Part.NODED)),
    Mishap("freeze-manager", 3, freeze_manager),
    Mishap("freeze-proxy", 1, freeze_one(Part.PROXY)),
    Mishap("kill-supervisor", 2, kill_supervisor),
    Mishap("kill-everything", 1, kill_everything),
    Mishap("down-up", 1, down_and_up),
    Mishap("switchover", 4, switchover, needs_health=True),
    Mishap("failover", 1, failover, needs_health=True),
    Mishap("stop-start", 2, stop_and_start, needs_health=True),
    Mishap("restart", 1, restart_replica, needs_health=True),
    Mishap("reinit", 1, reinit_replica, needs_health=True),
)


def draw(random: Random) -> Mishap:
    """Return what happens next."""
    return random.choices(MISHAPS, weights=[mishap.weight for mishap in MISHAPS])[0]
