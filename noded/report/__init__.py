"""What this node tells of itself, and how it finds that out.

Evidence: `attention` (time in which noded was awake), `gatherer` (asks PostgreSQL, round after round), `ports`, `heartbeat` (a
commit of our own through the quorum), `replay_lag`, `sync_trial`, `last_commit`, `findings` (what housekeeping found out).
`reporter` makes observations of it, `collector` metrics of those, `patroni` answers for load balancers.  Asked for by
operators' questions: `readiness`, `settings_check`.
"""
