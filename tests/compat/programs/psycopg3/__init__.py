"""psycopg 3 on libpq 18, whose package ships no tests: what an application sees of everything it can do with a session."""
