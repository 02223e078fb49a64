"""The name server's process: `python -m cluster_manager.dns.program`, started by the manager alone.

Reads zones from standard input, a line of JSON each, and serves the newest at the sockets it was handed; writes a report to
standard output every second.  It ends with its manager: when standard input does, and by the kernel's hand if the manager is
killed, so that the next one finds the port free.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys

import msgspec

from cluster_manager.dns.records import Zone
from cluster_manager.dns.server import DnsServer
from daemonkit.descriptors import allow_descriptors
from daemonkit.lifecycle import loop_factory
from daemonkit.logs import LEVELS, configure_logs, get_logger
from daemonkit.parentage import end_with
from daemonkit.program import UMASK, new_parser
from daemonkit.reception import REFUSED

REPORT_EVERY_S = 1.0
LINE_BYTES_MAX = 1 << 24
"""Of a zone: thousands of nodes."""
NICENESS = 5
"""Questions give way to decisions and to PostgreSQL where processors are short."""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What the process tells of itself."""

    refused: dict[str, int] = {}
    """TCP connections that were not kept in its life, by why."""
    connections: int = 0
    """TCP connections there are."""


async def serve(tcp: socket.socket, udp: socket.socket) -> None:
    """Serve until standard input ends."""
    loop = asyncio.get_running_loop()
    told = asyncio.StreamReader(limit=LINE_BYTES_MAX)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(told), sys.stdin)
    async with DnsServer(tcp, udp) as server, asyncio.TaskGroup() as tasks:
        reporting = tasks.create_task(_report(server), name="reports")
        while line := await told.readline():
            try:
                server.exchange(msgspec.json.decode(line, type=Zone))
            except ValueError as error:
                get_logger().error("a zone cannot be served; the former one stays", reason=str(error))
        reporting.cancel()


async def _report(server: DnsServer) -> None:
    os.set_blocking(sys.stdout.fileno(), False)
    while True:
        refused = {
            sample.labels["reason"]: int(sample.value)
            for family in REFUSED.collect()
            for sample in family.samples
            if sample.name.endswith("_total")
        }
        with contextlib.suppress(BlockingIOError, BrokenPipeError):  # a manager that does not read has other worries
            os.write(sys.stdout.fileno(), msgspec.json.encode(Report(refused=refused, connections=server.strangers)) + b"\n")
        await asyncio.sleep(REPORT_EVERY_S)


def main() -> None:
    """Run the program."""
    parser = new_parser("endpointd-dns", "The manager's name server.")
    parser.add_argument("--tcp", type=int, required=True, help="descriptor of the listening socket")
    parser.add_argument("--udp", type=int, required=True, help="descriptor of the bound socket")
    parser.add_argument("--parent", type=int, required=True, help="pid of the manager")
    parser.add_argument("--log-level", choices=LEVELS, default="info")
    parser.add_argument("--log-style", choices=("console", "json"), default="console")
    arguments = parser.parse_args()
    os.umask(UMASK)
    if not end_with(arguments.parent):
        return
    os.nice(NICENESS)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ^C is for the manager, which ends this
    allow_descriptors()
    configure_logs(program="dns", level=arguments.log_level, style=arguments.log_style)
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(serve(socket.socket(fileno=arguments.tcp), socket.socket(fileno=arguments.udp)))


if __name__ == "__main__":
    main()
