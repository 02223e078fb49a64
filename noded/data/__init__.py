"""The data directory made, copied, rewound, and what is kept of it: long work, each part on its own.

`bootstrap` makes one, `clone` copies one, `rewind` brings one back, `diverged_wal` keeps what that would destroy, `leftovers`
ends what a killed noded left; `copies` has them all, as `hands` calls them.  In what sequence: `acts.remaking`.
"""
