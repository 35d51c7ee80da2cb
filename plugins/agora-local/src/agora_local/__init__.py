"""Agora provider for processes on this machine."""
