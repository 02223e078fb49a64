"""What anybody who reaches our ports can do to them, with the primary killed meanwhile: `make hostile-network`."""
