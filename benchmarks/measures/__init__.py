"""What is measured: one function a measure, each gives dicts of numbers (and of what they are for)."""
