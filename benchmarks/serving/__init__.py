"""How fast nets are that compute from a compressed form."""
