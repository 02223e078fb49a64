"""Who a client is, found out by the proxy itself: what the cluster's roles prove themselves with, and how it is learned.

It knows nothing of sessions and links. Begin with `roles`, go on with `rolefeed`.
"""
