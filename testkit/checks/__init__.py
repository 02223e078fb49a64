"""Pure checkers: what clients were told, compared with what the database shows afterwards. No connection, no clock."""
