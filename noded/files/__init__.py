"""What PostgreSQL's files say, and where they are: read without a server, a program or a session.

`layout`, where a node's files are; `segments`, the files of WAL; `history`, how timelines follow one another, and the files by
which a promotion gets its number; `controldata`, what pg_controldata prints.
"""
