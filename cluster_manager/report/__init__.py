"""The cluster as it is shown: `status` (what `endpointctl status` prints, pure), `node_states` (since when), `metrics`
(Prometheus).
"""
