"""Runs inside the projects: kills their processes at chosen steps, and breaks promises when a test wants it broken."""
