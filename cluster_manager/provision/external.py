"""Nodes in containers and on hosts: others make them, and name them in the manager's settings."""

from __future__ import annotations

from cluster_manager.provision.provisioner import ByOthers


class ExternalProvisioner:
    """Makes nothing, and says who does."""

    async def propose(self, name: str | None, zone: str | None) -> ByOthers:
        """Say who makes nodes."""
        return await self.make(name, zone)

    async def make(self, name: str | None, zone: str | None) -> ByOthers:
        """Say who makes nodes."""
        del name, zone
        return ByOthers("this cluster's nodes are made by others: start a noded, name it in the manager's [[nodes]], reload")

    async def lead_out(self, name: str, *, purge: bool) -> ByOthers:
        """Say who takes nodes away."""
        del purge
        return ByOthers(f'when "{name}" is out of the cluster, stop its programs and take it out of the manager\'s [[nodes]]')
