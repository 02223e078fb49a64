"""`make bench-patroni`: endpointd and Patroni side by side, under the same clients and the same faults."""
