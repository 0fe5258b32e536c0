"""How fast the stages are, beside what one would do without them and beside what the hardware allows."""
