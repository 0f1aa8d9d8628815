"""The questions asked of a gradient, one file each: ``ask(case) -> findings``."""
