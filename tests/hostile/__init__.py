"""What a tenant with a superuser's connection can do to a cluster by SQL, and whether it lives through it."""
