"""The proxy: two doors, a writer's and a reader's, in front of one PostgreSQL cluster."""
