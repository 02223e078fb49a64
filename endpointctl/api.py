"""Talking to the manager: one place that knows where it is, which token it wants, and how its refusals read.

Imported by commands only when they run: `--help` needs no client.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from daemonkit.exits import Failure, Unfinished, WrongUsage
from daemonkit.httpanswers import HttpError, HttpRefused, HttpTimeout, HttpUnavailable
from daemonkit.oneshot import OneShotClient
from daemonkit.secrets import SecretError, read_secret
from deployment.local.directory import read_plan
from deployment.local.layout import Layout
from endpointctl import acting
from endpointctl.local.standing import Standing, ask_standing, trouble_in
from endpointctl.options import REQUEST_TIMEOUT_S, Target
from pgtopology.codec import MessageError, decode
from pgtopology.status import Status

POLL_S = 0.1
TOKEN_VARIABLE = "ENDPOINTD_TOKEN_FILE"  # noqa: S105 - a variable's name

STATUS_PATH = "/v1/status"


def api_url(target: Target) -> str:
    """Return the manager's URL. Raises Failure if the data directory holds no cluster."""
    if target.api is not None:
        return target.api
    plan = read_plan(Layout(target.data_dir))
    if plan is None:
        raise Failure(
            f"no cluster in {target.data_dir}",
            hint="make one with `endpointctl up`, or name one with --data-dir or --api",
        )
    return plan.api


def token(target: Target) -> str:
    """Return the API's token. Raises Failure if it cannot be read."""
    named = os.environ.get(TOKEN_VARIABLE)
    path = Path(named).expanduser() if named else Layout(target.data_dir).token
    try:
        return read_secret(path)
    except SecretError as error:
        raise Failure(str(error), hint=f"name the file with the API's token in {TOKEN_VARIABLE}") from error


@contextlib.asynccontextmanager
async def manager(target: Target) -> AsyncIterator[OneShotClient]:
    """Give a client of the manager; its errors leave this block as Failure."""
    url = api_url(target)
    try:
        yield OneShotClient(url, token(target), headers=acting.headers())
    except HttpError as error:
        failure = as_failure(error, url)
        if isinstance(error, HttpUnavailable) and (trouble := trouble_in(await standing_of(target))):
            raise type(failure)(failure.message, hint="; ".join(trouble)) from error
        raise failure from error
    except MessageError as error:
        raise Failure(f"the manager at {url} speaks another version: {error}", hint="use its own endpointctl") from error


async def standing_of(target: Target) -> Standing | None:
    """Return how the programs of a local cluster are; None if *target* is another."""
    return await ask_standing(Layout(target.data_dir)) if target.api is None else None


def as_failure(error: HttpError, url: str) -> Failure:
    """Return what *error* means to an operator."""
    match error:
        case HttpRefused(status=400):
            return WrongUsage(error.message or str(error))
        case HttpRefused():
            return Failure(error.message or str(error), hint=_refusal_hint(error))
        case HttpTimeout():
            return Failure(f"the manager at {url} does not answer in time", hint="see `endpointctl logs cluster_manager`")
        case HttpUnavailable(refused=True):
            return Failure(f"no manager listens at {url}", hint="start the cluster with `endpointctl up`")
        case _:
            return Failure(f"the manager at {url} cannot be reached: {error}", hint="see `endpointctl doctor`")


def _refusal_hint(error: HttpRefused) -> str | None:
    if error.status in (401, 403):
        return "check the token (run/token in the data directory)"
    return None


async def fetch_status(client: OneShotClient, *, timeout_s: float = REQUEST_TIMEOUT_S) -> Status:
    """Return the cluster's status."""
    return decode(await client.get(STATUS_PATH, timeout_s=timeout_s), Status)


def require_node(status: Status, name: str | None) -> None:
    """Raise WrongUsage unless *status* has a node called *name*; None is nobody in particular."""
    known = [node.name for node in status.nodes]
    if name is not None and name not in known:
        raise WrongUsage(f'there is no node "{name}"', hint=f"the nodes are {', '.join(known)}" if known else None)


async def wait_for_status(client: OneShotClient, is_met: Callable[[Status], bool], *, timeout_s: float, wanted: str) -> Status:
    """Return the first status for which *is_met*; a manager that is away for a while is waited for.

    Raises Unfinished after *timeout_s*, saying *wanted* and what was seen last.
    """
    deadline = time.monotonic() + timeout_s
    seen = "no manager answered"
    while True:
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise Unfinished(f"not {wanted} within {timeout_s:g} s: {seen}", hint="look at `endpointctl status`")
        try:
            status = await fetch_status(client, timeout_s=min(REQUEST_TIMEOUT_S, left_s))
        except (HttpUnavailable, HttpRefused) as error:
            # A manager that has just started, or just lost its store, may have nothing to tell yet.
            if isinstance(error, HttpRefused) and error.status < 500:
                raise
            seen = f"no status: {error}"
            await asyncio.sleep(min(POLL_S, left_s))
            continue
        if is_met(status):
            return status
        seen = f"{status.state} ({status.diagnosis}), epoch {status.epoch}: {status.reason}"
        await asyncio.sleep(min(POLL_S, max(0.0, deadline - time.monotonic())))
