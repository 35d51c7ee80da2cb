"""Dispatch a workload to any backend, stop it from anywhere, and know how it ended."""
