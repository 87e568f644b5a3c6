"""Three tables of the same columns: plain, captured by the ORM, captured by triggers."""
