"""`certs show|renew|client`: the certificates by which clients know the endpoints and nodes of a local cluster."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from daemonkit.exits import Failure
from endpointctl import output
from endpointctl.connecting import local_cluster
from endpointctl.options import Target, command, group

if TYPE_CHECKING:
    from deployment.local.layout import Layout
    from deployment.local.plan import Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateView:
    """One entry of `certs show --json`."""

    name: str
    path: str
    not_before: datetime
    not_after: datetime
    sha256: str
    names: tuple[str, ...]


def register(app: typer.Typer) -> None:
    """Add this group's commands to *app*."""
    certs = group("Show and renew the certificates of the endpoints and the nodes.")
    command(certs)(show)
    command(certs)(renew)
    command(certs)(client)
    app.add_typer(certs, name="certs")


def show(target: Target, as_json: Annotated[bool, typer.Option("--json", help="As an object.")] = False) -> None:
    """Show each certificate: until when it counts, for which names, and its SHA-256."""
    layout, plan = local_cluster(target)
    views = _views(layout, plan)
    if as_json:
        import msgspec

        output.json_document(msgspec.json.encode({"format_version": output.FORMAT_VERSION, "certificates": views}))
        return
    _print(views)


def renew(
    target: Target,
    authority: Annotated[
        bool, typer.Option("--ca", help="The authority too. Clients that hold a copy of ca.crt need the new one.")
    ] = False,
) -> None:
    """Make the certificates of endpoints and nodes anew. What runs takes them up within seconds, and no session ends."""
    from deployment.keyring import TAKEN_UP_S
    from deployment.local.directory import make_directories
    from deployment.local.tls import keyring, make_certificates
    from supervisor.door import find_supervisor

    layout, plan = local_cluster(target)
    make_directories(layout)
    now = datetime.now(UTC)
    if authority:
        keyring(layout, plan).establish(now, anew=True)
        if (supervisor := find_supervisor(layout)) is not None:
            with supervisor:
                pass
            output.line("the new authority is trusted by all programs in a moment; then it certifies them", err=True)
            time.sleep(TAKEN_UP_S)
    make_certificates(layout, plan, now, anew=True)
    _print(_views(layout, plan))


def client(
    target: Target,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Its common name: a role, or what a user map says.")],
    file: Annotated[Path | None, typer.Option("--file", metavar="FILE", help="Where to (NAME.pem here).")] = None,
) -> None:
    """Make a client's certificate with its key in one file, for rules of the endpoints that ask for one (`cert`)."""
    from daemonkit.durable import write_durably
    from deployment.local.tls import keyring

    layout, plan = local_cluster(target)
    path = file if file is not None else Path(f"{name.replace('/', '_')}.pem")
    if path.exists():
        raise Failure(f"{path} exists", hint="name another file with --file, or remove it")
    try:
        write_durably(path, keyring(layout, plan).issue_client(name, datetime.now(UTC)).pem.encode())
    except (OSError, ValueError) as error:
        raise Failure(f"no certificate was made: {error}") from error
    output.line(str(path))


def _views(layout: Layout, plan: Plan) -> tuple[CertificateView, ...]:
    from deployment.local.tls import show_certificates

    shown = show_certificates(layout, plan)
    if not shown:
        raise Failure(f"no certificates in {layout.tls}", hint="`endpointctl certs renew` makes them")
    return tuple(
        CertificateView(
            name=each.name,
            path=str(each.path),
            not_before=each.certificate.not_before,
            not_after=each.certificate.not_after,
            sha256=each.certificate.sha256,
            names=each.names,
        )
        for each in shown
    )


def _print(views: tuple[CertificateView, ...]) -> None:
    now = datetime.now(UTC)
    for view in views:
        left = (view.not_after - now).days
        when = f"{left} days left" if view.not_after > now else "expired"
        output.line(f"{view.name}: until {view.not_after:%Y-%m-%d %H:%M} UTC ({when})")
        output.line(f"  file    {view.path}")
        output.line(f"  sha256  {view.sha256}")
        if view.names:
            output.line(f"  for     {', '.join(view.names)}")
