"""A cluster's own authority: what it signs convinces OpenSSL, under the names it was asked for and no others."""

from __future__ import annotations

import datetime as dt

from deployment.certificates import RENEW_DAYS, certificates_in, is_due, is_signed_by, names_of, new_authority, new_server
from endpointd.wire.tls import Channel, Role
from tests.certificates import NAMES, authority, channels, load, server, serving, shake_hands, trusting

NOW = dt.datetime(2026, 11, 30, tzinfo=dt.UTC)


def test_every_name_and_address_convinces_and_no_other_does() -> None:
    for name in (*NAMES, "reader.local.endpointd.internal", "127.0.0.2"):
        client = Channel(trusting(), Role.CLIENT, server_name=name)
        _, served = channels()
        shake_hands(client, served)
        assert (client.facts is not None) is (name in NAMES), name


def test_a_server_is_no_authority() -> None:
    forged = new_server(server(), NAMES, dt.datetime.now(dt.UTC))
    client, served = channels(load(serving(), forged))
    shake_hands(client, served)
    assert client.failure is not None
    assert client.failure.reason.startswith("certificate verify failed")


def test_what_a_certificate_is_for_and_who_signed_it_can_be_asked() -> None:
    assert names_of(server()) == set(NAMES)
    assert names_of(authority()) == set()
    assert is_signed_by(server(), authority())
    assert not is_signed_by(server(), authority("another"))


def test_two_authorities_of_a_cluster_can_be_trusted_together() -> None:
    old, new = new_authority("local", dt.datetime.now(dt.UTC)), new_authority("local", dt.datetime.now(dt.UTC))
    context = trusting()
    context.load_verify_locations(cadata=old.certificate_pem + new.certificate_pem)
    for each in (old, new):
        client, served = channels(load(serving(), new_server(each, NAMES, dt.datetime.now(dt.UTC))), context)
        shake_hands(client, served)
        assert client.facts is not None


def test_a_certificate_is_due_a_month_before_its_end() -> None:
    pair = new_server(new_authority("local", NOW), NAMES, NOW)
    end = pair.certificate.not_after
    assert not is_due(pair.certificate, NOW)
    assert not is_due(pair.certificate, end - dt.timedelta(days=RENEW_DAYS, seconds=1))
    assert is_due(pair.certificate, end - dt.timedelta(days=RENEW_DAYS))
    assert is_due(pair.certificate, NOW - dt.timedelta(days=1))


def test_keys_are_not_shown() -> None:
    assert "PRIVATE" not in repr(server())
    assert "PRIVATE" not in server().certificate_pem
    assert certificates_in(authority().pem + server().pem) == (authority().certificate_pem, server().certificate_pem)
