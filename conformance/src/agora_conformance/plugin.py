"""The pytest plugin of the suite: inert until the runner switches it on."""
