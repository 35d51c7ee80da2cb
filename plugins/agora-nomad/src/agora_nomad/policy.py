"""The rights that this provider needs: `python -m agora_nomad.policy NAMESPACE` prints the policy."""

from __future__ import annotations

import re
import sys
from importlib.resources import files


def text(namespace: str = "default") -> str:
    """Return the policy for a namespace."""
    if not re.fullmatch(r"[A-Za-z0-9-]{1,128}", namespace):
        raise ValueError(f"{namespace!r} is not the name of a namespace")
    policy = (files("agora_nomad") / "policy.hcl").read_text(encoding="utf-8")
    return policy.replace('namespace "default"', f'namespace "{namespace}"')


if __name__ == "__main__":
    sys.stdout.write(text(*sys.argv[1:2]))
