"""The checker's own exam, and fnnet's ops under it."""
