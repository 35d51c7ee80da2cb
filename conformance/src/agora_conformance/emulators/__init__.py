"""Emulated backends that run real processes: one package a backend, and the runner that they share."""
