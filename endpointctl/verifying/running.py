"""A verification from its beginning to its end: schema, clients, the blow if one was asked for, the verdict, and no trace left.

The schema goes also when the run is interrupted or fails; what cannot be cleaned up is said.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable

from daemonkit.exits import Failure
from endpointctl.libpq import forget_leads
from endpointctl.verifying.checker import Report, check
from endpointctl.verifying.shadow import SCHEMA, Shadow, drop_schema, is_schema_of, make_schema
from endpointctl.verifying.workload import CONNECTION_FAILURES, Workload, connected, name_of, read_final

CLEAN_UP_S = 20.0
WARM_UP_S = 10.0
"""For the first acknowledgement: without one there is nothing to verify."""
FINISH_S = 45.0
"""For the clients' last statements, and for a writer that shows the end."""

Say = Callable[[str], None]


async def verify(
    *,
    writer: str,
    reader: str,
    clients: int,
    seconds: float,
    blow: Callable[[], Awaitable[None]] | None,
    say: Say,
) -> Report:
    """Run the clients for *seconds*, with *blow* at a third of them. Raises Failure if the cluster cannot be worked with."""
    forget_leads()
    shadow = Shadow(secrets.token_hex(4))
    await _prepare(writer, shadow, clients, say)
    try:
        workload = Workload(shadow, writer=writer, reader=reader, clients=clients)
        await _work(workload, seconds, blow)
        await _read_end(shadow, workload, writer)
        return check(workload.history)
    finally:
        await _clean_up(writer, shadow, say)


async def _prepare(writer: str, shadow: Shadow, clients: int, say: Say) -> None:
    """Make the schema; if that is interrupted, nothing of it stays. Raises Failure."""
    begun = False
    try:
        async with connected(writer) as connection:
            begun = True
            if await make_schema(connection, shadow, clients):
                say(f'removed the schema "{SCHEMA}" that an earlier run left')
    except CONNECTION_FAILURES as error:
        raise Failure(f"the writer endpoint does not let us work: {error or name_of(error)}") from error
    except asyncio.CancelledError:
        if begun:
            await _clean_up(writer, shadow, say)
        raise


async def _work(workload: Workload, seconds: float, blow: Callable[[], Awaitable[None]] | None) -> None:
    """Let the clients work, and strike the blow."""
    work = asyncio.create_task(workload.run(), name="verify clients")
    try:
        await _first_acknowledgement(workload)
        begun = time.monotonic()
        if blow is not None:
            await asyncio.sleep(seconds / 3)
            await blow()
        await asyncio.sleep(max(0.0, begun + seconds - time.monotonic()))
        workload.stop.set()
        async with asyncio.timeout(FINISH_S):
            await work
    finally:
        work.cancel()
        await asyncio.wait([work])


async def _first_acknowledgement(workload: Workload) -> None:
    try:
        async with asyncio.timeout(WARM_UP_S):
            await workload.first_acknowledgement.wait()
    except TimeoutError:
        told = ", ".join(workload.history.errors) or "no answer"
        raise Failure(f"nothing was acknowledged within {WARM_UP_S:g} s ({told})", hint="see `endpointctl status`") from None


async def _read_end(shadow: Shadow, workload: Workload, writer: str) -> None:
    deadline = time.monotonic() + FINISH_S
    while True:
        try:
            async with connected(writer) as connection:
                if not await is_schema_of(connection, shadow):
                    raise Failure(
                        f'the schema "{SCHEMA}" was replaced or dropped during the run, so nothing can be said',
                        hint="run one verification at a time",
                    )
                await read_final(connection, shadow, workload.history)
                return
        except CONNECTION_FAILURES as error:
            if time.monotonic() > deadline:
                raise Failure(f"the writer endpoint did not show the end: {name_of(error)}") from error
            workload.history.lists.clear()
            workload.history.registers.clear()
            await asyncio.sleep(0.1)


async def _clean_up(writer: str, shadow: Shadow, say: Say) -> None:
    """Drop the schema, also while we are being cancelled."""
    cleaning = asyncio.ensure_future(_drop(writer, shadow, say))
    try:
        await asyncio.shield(cleaning)
    except asyncio.CancelledError:
        await cleaning
        raise


async def _drop(writer: str, shadow: Shadow, say: Say) -> None:
    try:
        async with asyncio.timeout(CLEAN_UP_S):
            while True:
                try:
                    async with connected(writer) as connection:
                        await drop_schema(connection, shadow)
                        return
                except CONNECTION_FAILURES:
                    await asyncio.sleep(0.2)
    except TimeoutError:
        say(f'the schema "{SCHEMA}" could not be dropped; the next verify does it, or DROP SCHEMA {SCHEMA} CASCADE')
