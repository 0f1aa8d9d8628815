"""The call that is checked, and the numerics it is run in."""
