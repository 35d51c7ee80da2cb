"""For unit tests of programs that use Agora: a client whose workloads end when the test says so."""

from agora.testing.client import FakeClient

__all__ = ["FakeClient"]
