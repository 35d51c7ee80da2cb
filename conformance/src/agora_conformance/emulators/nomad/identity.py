"""What tells one cluster from another: the keys that sign workload identities."""

from __future__ import annotations

import base64
import hashlib
import uuid

from agora_conformance.emulators.nomad.errors import Object


class Identity:
    """The keys of a cluster.

    Parameters:
        seed: two clusters with the same seed have the same keys.
    """

    def __init__(self, seed: str) -> None:
        digest = hashlib.sha256(seed.encode()).digest()
        self.key_id = str(uuid.UUID(bytes=digest[:16], version=4))
        modulus = b"".join(hashlib.sha256(digest + bytes([number])).digest() for number in range(8))
        self._modulus = base64.urlsafe_b64encode(modulus).rstrip(b"=").decode()

    def jwks(self) -> Object:
        """Return the keys as `/.well-known/jwks.json` shows them."""
        key = {"use": "sig", "kty": "RSA", "kid": self.key_id, "alg": "RS256", "n": self._modulus, "e": "AQAB"}
        return {"keys": [key]}
