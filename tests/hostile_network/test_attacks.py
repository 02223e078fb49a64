"""The table of attacks, and the judge of what they cost."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.hostile_network.attacks import LISTENERS, Protocol, Way, attack_on
from tests.hostile_network.suite import Measured, combinations, few, problems

QUIET = Measured(outages_s=(0.4, 0.3, 5.0), lag_s=0.1, memory={"n1": 60 << 20})


def test_every_listener_is_attacked_in_every_way_that_its_protocol_has() -> None:
    missing = [(listener.name, way) for listener in LISTENERS for way in Way if attack_on(listener, way) is None]
    assert missing == [("dns udp", Way.IDLE), ("dns udp", Way.HALF)], "a datagram is neither idle nor half open"
    assert len(combinations()) == len(LISTENERS) * len(Way) - len(missing)
    for listener, way in combinations():
        attack = attack_on(listener, way)
        assert attack is not None
        if way in (Way.IDLE, Way.HALF) or (way is Way.MALFORMED and listener.protocol is not Protocol.DNS_UDP):
            assert attack.connections >= 5000


def test_the_short_form_has_each_listener_and_each_way() -> None:
    assert [listener for listener, _ in few()] == list(LISTENERS)
    assert {way for _, way in few()} == set(Way)
    assert all(attack_on(listener, way) is not None for listener, way in few())


@pytest.mark.parametrize(
    ("measured", "said"),
    [
        (QUIET, ""),
        (replace(QUIET, outages_s=(1.3, 1.3, 9.0)), ""),
        (replace(QUIET, outages_s=(1.5, 1.5, 0.1)), "the median outage of 1.50 s is more than 1.40 s"),
        (replace(QUIET, lag_s=1.2), "a loop stood still for 1.20 s, in peace 0.10 s"),
        (replace(QUIET, memory={"n1": 130 << 20}), "n1 took 130 MB, in peace 60 MB"),
    ],
)
def test_too_much_is_noticed(measured: Measured, said: str) -> None:
    assert "; ".join(problems(measured, QUIET)) == said
