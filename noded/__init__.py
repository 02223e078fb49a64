"""The daemon beside one PostgreSQL server: it starts, fences, promotes, copies and observes it, and decides nothing.

Floors, from the top; each knows only those below it, and those on one line do not know one another:

    `daemon`                      the program: settings, secrets, locks
    `server`                      HTTP: orders in, observations out
    `node`                        the life of one node, and the tasks that outlive an order
    `hands/`                      carries out acts on the real PostgreSQL
    `data/`  `housekeeping/`      making, copying and rewinding the data; what is looked after again and again
    `report/`  `position/`        what is told of this node; where its WAL ends (S6)
    `acts/`  `postgres/`          what is done, step by step, without doing it; the server as programs, sessions and files
    `law/`  `files/`              the durable promise and its rules; what PostgreSQL's files say

Begin with `law.promise`, go on with `acts`, whose package is a reading order of its own, and then with `hands.hands`.
"""
