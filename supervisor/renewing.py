"""Makes certificates of a running cluster anew before they end: it may run for years, and expired ones shut people out."""

from __future__ import annotations

import asyncio
from datetime import datetime

from deployment.keyring import TAKEN_UP_S
from deployment.local.layout import Layout
from deployment.local.plan import Plan
from deployment.local.tls import is_any_due, keyring, make_certificates


async def renew(layout: Layout, plan: Plan, now: datetime, *, taken_up_s: float = TAKEN_UP_S) -> bool:
    """Make anew what ends soon, and return whether there was any. Raises OSError, ValueError.

    A new authority certifies nothing before all that runs had *taken_up_s* to trust it.
    """
    if not is_any_due(layout, plan, now):
        return False
    authority = keyring(layout, plan)
    if authority.is_due(now):
        await asyncio.to_thread(authority.establish, now)
        await asyncio.sleep(taken_up_s)
    await asyncio.to_thread(make_certificates, layout, plan, now)
    return True
