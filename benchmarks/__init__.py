"""The benchmark: this package and its peer, side by side on one machine, and the limits of what both stand on.

``python -m benchmarks`` (or ``make bench``) runs all of it; ``benchmarks.plan`` says what is run and how often.
"""
