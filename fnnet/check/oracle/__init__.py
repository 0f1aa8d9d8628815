"""What the truth is, how exactly it is known, and who is right where two differ."""
