"""What `doctor` looks at: everything that could keep a local cluster from starting, or that runs and should not.

Each finding is one line: what was looked at, how it is, and what to do if it is not well.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
from datetime import UTC, datetime
from pathlib import Path

from daemonkit.exits import Failure
from deployment.certificates import is_due
from deployment.local.directory import inspect_directory, read_plan
from deployment.local.layout import Layout
from deployment.local.plan import DEFAULT_BASE_PORT, Plan, make_plan
from deployment.local.postmaster import postmaster_of
from deployment.local.tls import show_certificates
from endpointctl.local.machine import Finding, Grade, examine_machine
from endpointctl.local.paste import pooled_ports
from endpointd.pooling.statestatements import why_no_grammar
from endpointd.relay.choice import why_not_native
from supervisor.door import conflicts, conflicts_with_others, find_program, find_supervisor


def examine(layout: Layout) -> list[Finding]:
    """Return every finding about this machine and the cluster in *layout*."""
    findings = [_python(), _kernel(), _engine(), *examine_machine(layout), _confinement(), _disk(layout), _directory(layout)]
    try:
        plan = read_plan(layout)
    except Failure as failure:
        return [*findings, Finding(subject="plan", grade=Grade.BAD, text=failure.line)]
    findings += _binaries(plan)
    findings.append(_ports(layout, plan))
    findings += _pooled(layout)
    findings += _certificates(layout, plan) if plan is not None else []
    return findings + (_processes(layout, plan) if plan is not None else [])


def _python() -> Finding:
    good = sys.version_info >= (3, 11)
    text = f"{platform.python_version()} ({sys.executable})"
    return Finding(
        subject="python", grade=Grade.GOOD if good else Grade.BAD, text=text if good else f"{text}; 3.11 or newer is needed"
    )


def _kernel() -> Finding:
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (OSError, AttributeError):
        return Finding(
            subject="kernel", grade=Grade.BAD, text=f"{platform.release()} has no pidfd; Linux 5.3 or newer is needed"
        )
    return Finding(subject="kernel", grade=Grade.GOOD, text=platform.release())


def _engine() -> Finding:
    why = why_not_native()
    if why is None:
        return Finding(subject="relay engine", grade=Grade.GOOD, text="native")
    text = f"the asyncio engine serves, which takes more of a processor: the native one is not there, {why}"
    return Finding(subject="relay engine", grade=Grade.NOTE, text=text)


def _pooled(layout: Layout) -> list[Finding]:
    """Return whether the pooled endpoints, if there are any, can judge statements."""
    if not pooled_ports(layout):
        return []
    why = why_no_grammar()
    grade = Grade.GOOD if why is None else Grade.NOTE
    return [Finding(subject="pooled endpoints", grade=grade, text=why or "pglast judges statements")]


def _certificates(layout: Layout, plan: Plan) -> list[Finding]:
    now = datetime.now(UTC)
    findings: list[Finding] = []
    for shown in show_certificates(layout, plan):
        certificate, subject = shown.certificate, f"certificate of the {shown.name}"
        if shown.name == "former authority":
            continue
        until = f"until {certificate.not_after:%Y-%m-%d}"
        mend = "`endpointctl certs renew" + (" --ca" if shown.name == "authority" else "") + "` makes another"
        if certificate.not_after < now:
            findings.append(
                Finding(subject=subject, grade=Grade.BAD, text=f"expired on {certificate.not_after:%Y-%m-%d}; {mend}")
            )
        elif is_due(certificate, now):
            findings.append(Finding(subject=subject, grade=Grade.NOTE, text=f"{until}; {mend}"))
        else:
            findings.append(Finding(subject=subject, grade=Grade.GOOD, text=until))
    return findings


def _binaries(plan: Plan | None) -> list[Finding]:
    from noded.postgres.binaries import BinariesError, find_binaries

    try:
        found = find_binaries(Path(plan.pg_bin)) if plan is not None else find_binaries(prefer_bundled=True)
    except BinariesError as error:
        text = f"{error}; `make install` installs the bundled one"
        return [Finding(subject="postgresql", grade=Grade.BAD, text=text)]
    text = f"{found.version} in {found.directory}"
    if found.wrapper:
        text += ", run in a user namespace because we are root"
    findings = [Finding(subject="postgresql", grade=Grade.GOOD, text=text)]
    if lacks := what_is_lacking(found.directory):
        findings.append(Finding(subject="postgresql's build", grade=Grade.NOTE, text=lacks))
    return findings


def what_is_lacking(pg_bin: Path) -> str | None:
    """Return as one line what the PostgreSQL in *pg_bin* was built without; None if that is nothing, or unknown."""
    from noded.postgres.binaries import BinariesError, find_binaries
    from noded.postgres.features import lacking

    try:
        lacks = lacking(find_binaries(pg_bin))
    except BinariesError:
        return None
    if not lacks:
        return None
    return f"this PostgreSQL was built without {', '.join(lacks)}; packages have them (`up --pg-bin DIR` for a new cluster)"


def _confinement() -> Finding:
    from noded.postgres.confinement import is_possible

    if is_possible():
        return Finding(
            subject="tablespaces", grade=Grade.GOOD, text="kept inside the data directories by a filter of system calls"
        )
    text = "this kernel has no seccomp filters, so nothing refuses one that all servers of this machine would write to"
    return Finding(subject="tablespaces", grade=Grade.NOTE, text=text)


def _disk(layout: Layout) -> Finding:
    place = layout.root
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    grade = Grade.GOOD if free > 2 << 30 else Grade.NOTE if free > 512 << 20 else Grade.BAD
    return Finding(subject="disk", grade=grade, text=f"{free >> 20} MB free at {place}")


def _directory(layout: Layout) -> Finding:
    try:
        state = inspect_directory(layout)
    except Failure as failure:
        return Finding(subject="data directory", grade=Grade.BAD, text=failure.line)
    if layout.root.exists() and layout.root.stat().st_mode & 0o077 and layout.marker.exists():
        return Finding(subject="data directory", grade=Grade.BAD, text=f"{layout.root} is open to other users; chmod 700 it")
    text = "holds a cluster" if state == "complete" else "is free for a new cluster"
    return Finding(subject="data directory", grade=Grade.GOOD, text=f"{layout.root} {text}")


def _ports(layout: Layout, plan: Plan | None) -> Finding:
    wanted = plan or make_plan(node_count=3, base_port=DEFAULT_BASE_PORT, pg_bin="")
    taken = conflicts(wanted.ports) if plan is None else conflicts_with_others(layout, plan)
    if not taken:
        return Finding(subject="ports", grade=Grade.GOOD, text=f"all ports from base {wanted.base_port} are ours or free")
    text = "; ".join(
        f"{conflict.use.port} ({conflict.use.purpose}) is held by {conflict.holder.description}" for conflict in taken
    )
    grade = Grade.BAD if plan is not None else Grade.NOTE
    return Finding(subject="ports", grade=grade, text=f"{text}; choose others with --base-port")


def _processes(layout: Layout, plan: Plan) -> list[Finding]:
    findings: list[Finding] = []
    supervisor = find_supervisor(layout)
    pids: dict[str, int] = {}
    if supervisor is not None:
        with supervisor:
            pids["supervisor"] = supervisor.record.pid
    for name in plan.programs:
        process = find_program(layout, name)
        if process is not None:
            with process:
                pids[name] = process.record.pid
    running = ", ".join(f"{name} {pid}" for name, pid in pids.items())
    missing = [name for name in ("supervisor", *plan.programs) if name not in pids]
    if pids and missing:
        hint = "`endpointctl up` starts what is missing and adopts the rest"
        text = f"{running} run, {', '.join(missing)} not; {hint}"
        findings.append(Finding(subject="processes", grade=Grade.BAD, text=text))
    else:
        findings.append(Finding(subject="processes", grade=Grade.GOOD, text=running or "none run"))
    left = [node.name for node in plan.nodes if node.name in missing and postmaster_of(layout.pgdata(node.name)) is not None]
    if left:
        text = f"PostgreSQL of {', '.join(left)} runs without its noded; `endpointctl up` takes it over, `down` stops it"
        findings.append(Finding(subject="postgresql left behind", grade=Grade.BAD, text=text))
    return findings
