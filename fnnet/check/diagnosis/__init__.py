"""What the mistake probably is."""
