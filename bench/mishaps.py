"""What befalls a cluster in a soak: single acts on a running local cluster, chosen by chance and undone by themselves.

Knows processes and commands; whether the cluster survives is for others to find out.  An act leaves nothing frozen and nothing
ordered down when it returns.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from pgtopology.status import NodeStatus, Status
from testkit.cluster import Cluster
from testkit.processes import command, frozen, send_all

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

    def postgres(self, node: NodeStatus) -> list[int]:
        """Return a node's postmaster and all below it."""
        return self.cluster.postgres_of(node)

    def program(self, name: str) -> list[int]:
        """Return the pid of a program, if it runs."""
        with contextlib.suppress(OSError, ValueError, KeyError):
            pid = self.cluster.pid_of(name)
            return [pid] if str(self.cluster.data_dir) in command(pid) else []
        return []

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


def kill_postmaster(scene: Scene) -> str:
    """SIGKILL to a postmaster alone: its sessions notice later."""
    node = scene.any_node
    send_all(scene.postgres(node)[:1], signal.SIGKILL)
    return node.name


def kill_postgres(scene: Scene) -> str:
    """SIGKILL to all of a PostgreSQL."""
    node = scene.any_node
    send_all(scene.postgres(node), signal.SIGKILL)
    return node.name


def kill_noded(scene: Scene) -> str:
    """SIGKILL to a noded; its PostgreSQL lives."""
    node = scene.any_node
    send_all(scene.program(node.name), signal.SIGKILL)
    return node.name


def kill_node(scene: Scene) -> str:
    """SIGKILL to a noded and its PostgreSQL."""
    node = scene.any_node
    send_all([*scene.program(node.name), *scene.postgres(node)], signal.SIGKILL)
    return node.name


def kill_manager(scene: Scene) -> str:
    """SIGKILL to the manager."""
    send_all(scene.program("cluster_manager"), signal.SIGKILL)
    return "manager"


def kill_proxy(scene: Scene) -> str:
    """SIGKILL to the proxy."""
    send_all(scene.program("endpointd"), signal.SIGKILL)
    return "proxy"


def freeze_node(scene: Scene) -> str:
    """SIGSTOP to a whole node for a while."""
    node = scene.any_node
    with frozen([*scene.program(node.name), *scene.postgres(node)]):
        scene.wait_s(FROZEN_S)
    return node.name


def freeze_postgres(scene: Scene) -> str:
    """SIGSTOP to a PostgreSQL for a while."""
    node = scene.any_node
    with frozen(scene.postgres(node)):
        scene.wait_s(FROZEN_S)
    return node.name


def freeze_noded(scene: Scene) -> str:
    """SIGSTOP to a noded for a while."""
    node = scene.any_node
    with frozen(scene.program(node.name)):
        scene.wait_s(FROZEN_S)
    return node.name


def freeze_manager(scene: Scene) -> str:
    """SIGSTOP to the manager for a while, and perhaps a death meanwhile."""
    node = scene.any_node if scene.random.random() < 0.5 else None
    with frozen(scene.program("cluster_manager")):
        if node is not None:
            send_all(scene.postgres(node), signal.SIGKILL)
        scene.wait_s(FROZEN_S)
    return f"manager, {node.name} killed meanwhile" if node is not None else "manager"


def freeze_proxy(scene: Scene) -> str:
    """SIGSTOP to the proxy for a while."""
    with frozen(scene.program("endpointd")):
        scene.wait_s(FROZEN_S)
    return "proxy"


def kill_supervisor(scene: Scene) -> str:
    """SIGKILL to the supervisor, perhaps a node dies unseen, and `up` adopts what is left."""
    send_all(scene.program("supervisor"), signal.SIGKILL)
    node = scene.any_node if scene.random.random() < 0.5 else None
    if node is not None:
        send_all([*scene.program(node.name), *scene.postgres(node)], signal.SIGKILL)
    scene.wait_s(DOWN_S)
    scene.cluster.up()
    return f"supervisor, {node.name} killed meanwhile" if node is not None else "supervisor"


def kill_everything(scene: Scene) -> str:
    """SIGKILL to every process at once, as a power failure would, and `up`."""
    pids = [pid for node in scene.status.nodes for pid in (*scene.program(node.name), *scene.postgres(node))]
    pids += [pid for name in ("supervisor", "cluster_manager", "endpointd") for pid in scene.program(name)]
    send_all(scene.program("supervisor"), signal.SIGKILL)
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
    Mishap("kill-postmaster", 4, kill_postmaster),
    Mishap("kill-postgres", 5, kill_postgres),
    Mishap("kill-noded", 3, kill_noded),
    Mishap("kill-node", 4, kill_node),
    Mishap("kill-manager", 3, kill_manager),
    Mishap("kill-proxy", 2, kill_proxy),
    Mishap("freeze-node", 4, freeze_node),
    Mishap("freeze-postgres", 3, freeze_postgres),
    Mishap("freeze-noded", 2, freeze_noded),
    Mishap("freeze-manager", 3, freeze_manager),
    Mishap("freeze-proxy", 1, freeze_proxy),
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
