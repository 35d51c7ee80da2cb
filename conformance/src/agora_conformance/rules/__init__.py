"""The requirements as data, by what they are about."""
