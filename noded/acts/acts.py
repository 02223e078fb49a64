"""All acts of one noded, put together."""

from __future__ import annotations

from noded.acts.fence import Fence
from noded.acts.gate import Gate
from noded.acts.memory import Memory
from noded.acts.orders import Orders
from noded.acts.police import Police
from noded.acts.promotion import Promotion
from noded.acts.remaking import Remaking
from noded.acts.running import Running
from noded.acts.startup import Startup
from noded.acts.synchronous import Synchronous
from noded.acts.wholeness import Wholeness


class Acts:
    """What a noded can do, and the memory it does it by."""

    def __init__(self, memory: Memory, *, gate: type[Gate] = Gate, fence: type[Fence] = Fence) -> None:
        """*gate* and *fence* are others where a sentence of the law is broken on purpose."""
        self.memory = memory
        self.running = Running(memory)
        self.fence = fence(memory, self.running)
        its_gate = gate(memory)
        self.remaking = Remaking(memory, its_gate, self.running)
        self.orders = Orders(
            memory,
            its_gate,
            self.running,
            self.fence,
            Promotion(memory),
            Synchronous(memory, its_gate, self.running),
            self.remaking,
        )
        self.startup = Startup(memory, self.running, self.fence)
        self.police = Police(memory, self.fence)
        self.wholeness = Wholeness(memory)
