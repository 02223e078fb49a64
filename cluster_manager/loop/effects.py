"""What the manager's loop asks its shell to do, and what must be durable before what.

The shell carries out one `Effects` completely before it gives the next event, in the order of the fields.
"""

from __future__ import annotations

from dataclasses import dataclass

from cluster_manager.decision.actions import NodeAction
from cluster_manager.decision.plan import Plan
from cluster_manager.decision.request import Request
from cluster_manager.decision.view import View
from pgtopology.desired_nodes import DesiredNodes
from pgtopology.document import Topology
from pgtopology.epoch import Revision
from pgtopology.node import NodeName
from pgtopology.orders import Order


@dataclass(frozen=True, slots=True)
class Read:
    """Read the document; answered by `Loaded` or `StoreFailed`."""

    not_before_ms: float


@dataclass(frozen=True, slots=True)
class Write:
    """Write *document* if the stored revision is *expected*; answered by `Written`, `Overtaken` or `StoreFailed`."""

    document: Topology
    expected: Revision | None
    """None: if there is no document."""
    because: str
    began_ms: float


@dataclass(frozen=True, slots=True)
class ReadDesired:
    """Read the record of desired nodes; answered by `DesiredLoaded` or `DesiredFailed`."""

    not_before_ms: float


@dataclass(frozen=True, slots=True)
class WriteDesired:
    """Write *record* if the stored revision is *expected*; answered by one of `DesiredWritten`, `-Overtaken`, `-Failed`."""

    record: DesiredNodes
    expected: int | None
    """None: if there is no record."""


@dataclass(frozen=True, slots=True)
class Make:
    """Have the provisioner make a node; answered by `Provisioned` with this number."""

    number: int
    node: NodeName
    zone: str | None


@dataclass(frozen=True, slots=True)
class LeadOut:
    """Have the provisioner lead a node out, with *purge* its data too; answered by `Provisioned` with this number."""

    number: int
    node: NodeName
    purge: bool


ProvisionerOrder = Make | LeadOut


@dataclass(frozen=True, slots=True)
class Send:
    """Give a node an order; answered by `Answered` with this number, unless it is cancelled."""

    number: int
    action: NodeAction
    order: Order
    document: Topology
    """What the order follows from."""
    deadline_s: float
    """How long the answer is waited for."""


# What is told to people; nothing depends on it.


@dataclass(frozen=True, slots=True)
class Decided:
    """A plan was made."""

    view: View
    plan: Plan


@dataclass(frozen=True, slots=True)
class DocumentWritten:
    """The document is another one."""

    old: Topology | None
    write: Write
    view: View
    """Why it was written."""


@dataclass(frozen=True, slots=True)
class WriteFailed:
    """A document was not written, or it is not known whether."""

    write: Write
    why: str
    by_another: bool = False
    """Another manager wrote first."""


@dataclass(frozen=True, slots=True)
class RequestGivenUp:
    """An operator's request ended before anything was changed."""

    view: View
    request: Request
    because: str


@dataclass(frozen=True, slots=True)
class OrderFailed:
    """An order failed, and in another way than the last of its kind did."""

    action: NodeAction
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class StoreNoted:
    """The store does not do what is asked, or does it again (None)."""

    problem: str | None


@dataclass(frozen=True, slots=True)
class NodeNoted:
    """An order about which nodes there are to be came a step further, or does not."""

    kind: str
    """The event's."""
    node: NodeName
    text: str


Note = Decided | DocumentWritten | WriteFailed | RequestGivenUp | OrderFailed | StoreNoted | NodeNoted


@dataclass(frozen=True, slots=True, kw_only=True)
class Effects:
    """What is to be done now.

    The one rule of durability: `publish` and `orders` carry a document that the store has returned or confirmed, never one
    that is still to be written.  While the store owes an answer nothing is decided: no `Turn` does anything before it (F2, F5).
    """

    cancelled: tuple[int, ...] = ()
    """Orders whose answers nobody waits for any more."""
    publish: Topology | None = None
    """Tell proxies and names."""
    notes: tuple[Note, ...] = ()
    orders: tuple[Send, ...] = ()
    store: Read | Write | None = None
    """Ask the store, and let the answer be the next word about it."""
    desired: ReadDesired | WriteDesired | None = None
    """Ask the store this too, beside whatever else it is asked."""
    provision: tuple[ProvisionerOrder, ...] = ()
    refused: str | None = None
    """Why what an operator wants is not done."""
    wake_at_ms: float
    """When the next `Turn` is due, in place of what was said before: in the past for at once, infinite for not at all."""
