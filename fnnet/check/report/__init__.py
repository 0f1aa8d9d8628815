"""What a check answers, as a table for people and as JSON."""
