"""The manager: observations in, decisions, the topology document and names out. It never sees a client's bytes."""
