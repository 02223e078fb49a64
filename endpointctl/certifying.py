"""`certs show|renew`: the certificates by which clients know the endpoints of a local cluster."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from daemonkit.exits import Failure
from endpointctl import output
from endpointctl.connecting import local_cluster
from endpointctl.options import Target, command, group

if TYPE_CHECKING:
    from deployment.local.layout import Layout


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
    certs = group("Show and renew the certificates of the endpoints.")
    command(certs)(show)
    command(certs)(renew)
    app.add_typer(certs, name="certs")


def show(target: Target, as_json: Annotated[bool, typer.Option("--json", help="As an object.")] = False) -> None:
    """Show each certificate: until when it counts, for which names, and its SHA-256."""
    layout, _ = local_cluster(target)
    views = _views(layout)
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
    """Make the endpoints' certificate anew. A running proxy takes it up within seconds, and no session ends."""
    from deployment.local.directory import make_directories
    from deployment.local.tls import make_certificates

    layout, plan = local_cluster(target)
    make_directories(layout)
    make_certificates(layout, plan, datetime.now(UTC), anew=True, authority_anew=authority)
    _print(_views(layout))


def _views(layout: Layout) -> tuple[CertificateView, ...]:
    from deployment.local.tls import show_certificates

    shown = show_certificates(layout)
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
