"""The proxy: clients come in, a server is found for each, and a relay engine moves their bytes.

    daemon, worker               the program: the process that there is, or the main one of several, and the others
    service                      what serves clients in each of them
    admin, collector, gathered   what it tells over HTTP
    entrances                    all that clients come in by, which a successor takes over
    workers/                     what the main process and the others say to each other
    session/                     a client, from its first byte to its last
    servers/                     which server it gets, and when
    relay/  routing/             moving the bytes of sessions;  what the endpoints stand for now
    takeover/                    how one process relieves another
    wire/                        connections
    metrics, refusal, settings   what all of them speak of

Imports go down only.
"""
