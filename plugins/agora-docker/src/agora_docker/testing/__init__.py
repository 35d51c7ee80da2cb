"""What tests and the conformance target need of an engine: an image made on the spot, and a proxy that can be cut."""
