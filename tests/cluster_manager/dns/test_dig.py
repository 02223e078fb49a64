"""The server asked by `dig`, the client that operators use and that is stricter than our own library."""

from __future__ import annotations

import asyncio
import re
import shutil

import pytest

from tests.cluster_manager.dns.documents import ORIGIN, document
from tests.cluster_manager.dns.test_server import HasPort, serving

pytestmark = pytest.mark.skipif(shutil.which("dig") is None, reason="dig is not installed (dnsutils)")


async def dig(server: HasPort, *words: str) -> str:
    """Return all that dig prints."""
    process = await asyncio.create_subprocess_exec(
        "dig", "@127.0.0.1", "-p", str(server.port), "+tries=1", "+time=5", "+norec", *words, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    async with asyncio.timeout(20):
        output, _ = await process.communicate()
    text = output.decode()
    # What dig would complain of.
    assert not re.search(r"WARNING|malformed|Mismatch|bad packet|Question section mismatch", text), text
    return text


def status(text: str) -> str:
    found = re.search(r"status: (\w+)", text)
    assert found is not None, text
    return found[1]


def flags(text: str) -> set[str]:
    found = re.search(r"flags: ([a-z ]*);", text)
    assert found is not None, text
    return set(found[1].split())


async def test_names_addresses_and_services() -> None:
    async with serving() as server:
        server.update(document(writer="n1"))
        assert (await dig(server, "+short", f"writer.{ORIGIN}")).split() == ["127.0.0.1"]
        assert sorted((await dig(server, "+short", f"reader.{ORIGIN}")).split()) == ["127.0.0.2", "127.0.0.3"]
        assert (await dig(server, "+short", "+tcp", f"n2.{ORIGIN}")).split() == ["127.0.0.2"]
        service = await dig(server, "+short", f"_postgresql._tcp.writer.{ORIGIN}", "SRV")
        assert service.split() == ["0", "0", "6411", f"n1.{ORIGIN}."]
        whole = await dig(server, f"writer.{ORIGIN}")
        assert (status(whole), flags(whole)) == ("NOERROR", {"qr", "aa"})
        assert "EDNS: version: 0, flags:; udp: 1232" in whole
        assert re.search(rf"^writer\.{re.escape(ORIGIN)}\.\s+1\s+IN\s+A\s+127\.0\.0\.1$", whole, re.MULTILINE)


async def test_negative_answers_carry_the_soa_and_for_how_long_they_hold() -> None:
    async with serving() as server:
        server.update(document(writer="n1"))
        for words, code in (((f"nobody.{ORIGIN}",), "NXDOMAIN"), ((f"writer.{ORIGIN}", "AAAA"), "NOERROR")):
            text = await dig(server, *words)
            assert status(text) == code
            assert "ANSWER: 0, AUTHORITY: 1" in text
            assert re.search(rf"^{re.escape(ORIGIN)}\.\s+1\s+IN\s+SOA\s.*\s1$", text, re.MULTILINE)


async def test_what_is_too_long_for_udp_is_fetched_by_tcp() -> None:
    async with serving() as server:
        server.update(document(writer="n1", nodes=100, eligible=[f"n{n}" for n in range(2, 101)]))
        cut = await dig(server, "+ignore", f"reader.{ORIGIN}")
        assert "tc" in flags(cut)
        whole = await dig(server, f"reader.{ORIGIN}")
        assert ";; Truncated, retrying in TCP mode." in whole
        assert "ANSWER: 99" in whole
        assert "tc" in flags(await dig(server, "+ignore", "+noedns", f"reader.{ORIGIN}"))


async def test_edns_versions_cookies_and_options() -> None:
    async with serving() as server:
        server.update(document(writer="n1"))
        assert status(await dig(server, "+edns=1", "+noednsneg", f"writer.{ORIGIN}")) == "BADVERS"
        options = ("+dnssec", "+nocookie", "+subnet=10.0.0.0/8", "+ednsopt=65001:abcd", "+noedns", "+bufsize=512")
        for option in options:
            assert "ANSWER: 1," in await dig(server, option, f"writer.{ORIGIN}")


async def test_what_is_refused() -> None:
    async with serving() as server:
        server.update(document(writer="n1"))
        for words in (
            ("example.com",),
            ("endpointd.internal",),
            (".", "NS"),
            ("-c", "CH", "version.bind", "TXT"),
            ("-c", "CH", f"writer.{ORIGIN}", "A"),
        ):
            assert status(await dig(server, *words)) == "REFUSED"
        assert "Transfer failed." in await dig(server, ORIGIN, "AXFR")
        assert "Transfer failed." in await dig(server, "+tcp", ORIGIN, "IXFR=1")
        for opcode in ("NOTIFY", "UPDATE", "STATUS", "7"):
            text = await dig(server, "+noedns", f"+opcode={opcode}", ORIGIN, "SOA")
            assert status(text) == "NOTIMP"


async def test_a_client_that_spells_names_at_random_finds_its_spelling_again() -> None:
    async with serving() as server:
        server.update(document(writer="n1"))
        name = f"WrItEr.{ORIGIN.swapcase()}"
        text = await dig(server, name)
        assert re.search(rf"^{re.escape(name)}\.\s+1\s+IN\s+A\s+127", text, re.MULTILINE)


async def test_before_the_first_document_nothing_is_denied() -> None:
    async with serving() as server:
        assert status(await dig(server, f"writer.{ORIGIN}")) == "SERVFAIL"
