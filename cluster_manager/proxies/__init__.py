"""The connection to the proxies: `feed` sends them the document and a sign of life, and takes their reports.

`inquiries` ask them about their sessions, `cancels` takes cancel requests from one to another.
"""
