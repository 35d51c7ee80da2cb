"""`$(NAME)` in commands, arguments and environment values, as the kubelet expands it."""

from __future__ import annotations

from collections.abc import Mapping


def expand(text: str, known: Mapping[str, str]) -> str:
    """Replace `$(NAME)` for known names; `$$` becomes `$`, everything else stays.

    Source: measured, and `third_party/forked/golang/expansion` of Kubernetes.
    """
    out, at = [], 0
    while at < len(text):
        following = text[at + 1 : at + 2]
        if text[at] != "$" or not following:
            out.append(text[at])
            at += 1
        elif following == "(" and (end := text.find(")", at)) > 0:
            name = text[at + 2 : end]
            out.append(known.get(name, f"$({name})"))
            at = end + 1
        else:
            out.append("$" if following == "$" else f"${following}")
            at += 2
    return "".join(out)
