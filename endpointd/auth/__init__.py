"""Who a client is: the proof that it gives, the cluster's roles that it is checked against, and what failures cost.

Lies beside `servers`: nothing here knows sessions or links. Begin with `gate`, go on with `exchange` and `roles`; the rules of
an endpoint are `endpointd.rules`.
"""
