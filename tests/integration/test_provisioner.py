"""What the manager relies on in a provisioner, with a real supervisor and with others who make the machines."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from cluster_manager.provision.external import ExternalProvisioner
from cluster_manager.provision.local import LocalProvisioner
from cluster_manager.provision.provisioner import ByOthers, Declined, Gone, Leads, Made, Proposed, Provisioner, Unheard
from deployment.local.layout import Layout
from testkit.cluster import Cluster

DEADLINE_S = 90.0

MakeCluster = Callable[..., Cluster]


@pytest.fixture(params=["local", "external"])
def provisioner(request: pytest.FixtureRequest, make_cluster: MakeCluster) -> Iterator[Provisioner]:
    if request.param == "external":
        yield ExternalProvisioner()
        return
    cluster = make_cluster(nodes=1)
    cluster.up()
    yield LocalProvisioner(Layout(cluster.data_dir).control_socket)


async def twice(order: Callable[[], Awaitable[object]]) -> object:
    """Return the answer to an order that is given again because somebody did not wait for the first answer."""
    first = await order()
    assert await order() == first
    return first


@pytest.mark.timeout(240)
async def test_an_order_that_is_given_again_has_the_same_answer(provisioner: Provisioner) -> None:
    proposed = await twice(lambda: provisioner.propose("n2", "cellar"))
    assert isinstance(proposed, Proposed | ByOthers)
    made = await twice(lambda: provisioner.make("n2", "cellar"))
    assert isinstance(made, Made | ByOthers)
    if isinstance(made, Made):
        assert proposed == Proposed(made.node)
        assert (made.node.name, made.node.zone) == ("n2", "cellar")
        assert isinstance(await twice(lambda: provisioner.make("n2", "elsewhere")), Declined)
    assert isinstance(await twice(lambda: provisioner.lead_out("n9", purge=False)), Gone | ByOthers)
    assert isinstance(await twice(lambda: provisioner.lead_out("n2", purge=True)), Leads | ByOthers)
    if isinstance(made, Made):
        assert isinstance(await provisioner.make("n2", None), Declined), "it is being taken away"
        async with asyncio.timeout(DEADLINE_S):
            while not isinstance(await provisioner.lead_out("n2", purge=True), Gone):
                await asyncio.sleep(0.2)


async def test_nobody_on_the_socket_is_an_answer_too(tmp_path: Path) -> None:
    provisioner = LocalProvisioner(tmp_path / "nobody")
    assert isinstance(await twice(lambda: provisioner.propose(None, None)), Unheard)
    assert isinstance(await twice(lambda: provisioner.make(None, None)), Unheard)
    assert isinstance(await twice(lambda: provisioner.lead_out("n1", purge=False)), Unheard)
