"""What an application sees of a failover: real drivers, real failovers, and the error that each driver makes of it."""
