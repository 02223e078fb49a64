"""What must hold, one property a file."""
