"""The decision pipeline: observations, suspicion, diagnosis, election, transition, plan. Pure: no clock, no I/O, no chance."""
