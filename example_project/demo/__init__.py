"""The runner of ``make demo``."""
