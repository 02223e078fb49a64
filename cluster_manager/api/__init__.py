"""The manager's HTTP interface for operators: `control` has the routes, `acts` writes into the journal who ordered what."""
