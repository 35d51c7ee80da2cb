"""What the conformance suite needs in a real account."""
