"""The checks, one module a family; each registers for exactly one requirement."""
