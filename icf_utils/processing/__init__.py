"""A user's own program on a visit: its input arranged, limits enforced, its output deposited with its provenance."""
