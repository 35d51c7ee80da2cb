"""The rights that this provider needs: `python -m agora_k8s.rbac` prints the manifest."""

from __future__ import annotations

import sys
from importlib.resources import files


def text() -> str:
    """Return the manifest: a service account, its Role and their binding, without a namespace."""
    return (files("agora_k8s") / "rbac.yaml").read_text(encoding="utf-8")


if __name__ == "__main__":
    sys.stdout.write(text())
