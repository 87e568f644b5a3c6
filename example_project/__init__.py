"""A master and two replica services on real data; ``make demo`` runs them."""
