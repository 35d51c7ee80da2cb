"""Conformance suite for Agora providers."""
