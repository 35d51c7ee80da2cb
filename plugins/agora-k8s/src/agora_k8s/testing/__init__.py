"""What the conformance suite needs on a real cluster."""
