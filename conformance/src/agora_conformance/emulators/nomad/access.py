"""Access control: tokens, and the policies that say what they may do."""

from __future__ import annotations

import json
import re
import uuid
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from agora_conformance.emulators.nomad.errors import ApiError, Object, denied

READ = (
    *("list-jobs", "parse-job", "read-job", "csi-list-volume", "csi-read-volume", "list-scaling-policies"),
    *("read-scaling-policy", "read-job-scaling", "host-volume-read"),
)
WRITE = (
    *READ,
    *("scale-job", "submit-job", "dispatch-job", "read-logs", "read-fs", "alloc-exec", "alloc-lifecycle"),
    *("csi-write-volume", "csi-mount-volume", "submit-recommendation"),
)
LEVELS = {"deny": ("deny",), "read": READ, "write": WRITE, "scale": ("list-scaling-policies", "read-scaling-policy")}
TOKEN = re.compile(r'\s*(?:#[^\n]*|//[^\n]*|/\*.*?\*/|("(?:[^"\\]|\\.)*")|([{}\[\],=])|([^\s{}\[\],="]+))', re.DOTALL)


@dataclass
class Policy:
    """What a policy allows.

    Parameters:
        namespaces: capabilities by pattern of names.
        variables: capabilities on variables, by pattern of names and then by pattern of paths.
        others: `read` or `write` for `node`, `agent`, `operator`, ...
    """

    namespaces: dict[str, set[str]] = field(default_factory=dict)
    variables: dict[str, dict[str, set[str]]] = field(default_factory=dict)
    others: dict[str, str] = field(default_factory=dict)


def read(text: str) -> Policy:
    """Read a policy in HCL or JSON.

    Raises:
        ApiError: 400, it is none.
    """
    try:
        document = json.loads(text) if text.lstrip().startswith("{") else _Hcl(text).blocks()
    except (ValueError, IndexError) as error:
        raise ApiError(400, f"failed to parse policy: {error}") from None
    policy = Policy()
    for kind, body in document.items():
        if kind == "namespace":
            for name, rules in body.items():
                allowed = set(LEVELS.get(rules.get("policy", ""), ())) | set(rules.get("capabilities") or [])
                policy.namespaces[name] = allowed
                paths = (rules.get("variables") or {}).get("path") or {}
                policy.variables[name] = {path: _of_path(one) for path, one in paths.items()}
        elif isinstance(body, dict):
            policy.others[kind] = body.get("policy", "")
    return policy


def _of_path(rules: Object) -> set[str]:
    """Return the capabilities on a path; who may read may list."""
    allowed = set(rules.get("capabilities") or [])
    return allowed | {"list"} if "read" in allowed else allowed


class _Hcl:
    """Reads blocks of attributes: `kind "label" { name = value }`."""

    def __init__(self, text: str) -> None:
        self._words = [found[1] or found[2] or found[3] for found in TOKEN.finditer(text) if found.lastindex]
        self._at = 0

    def _take(self) -> str:
        self._at += 1
        return self._words[self._at - 1]

    def blocks(self) -> Object:
        found: Object = {}
        while self._at < len(self._words):
            kind = self._take().strip('"')
            label = self._take()
            if label == "{":
                found[kind] = self._body()
                continue
            if self._take() != "{":
                raise ValueError(f"a block was expected after {kind} {label}")
            found.setdefault(kind, {})[json.loads(label)] = self._body()
        return found

    def _body(self) -> Object:
        found: Object = {}
        while (name := self._take()) != "}":
            sign = self._take()
            if sign == "{":
                found[name] = self._body()
            elif sign.startswith('"') and self._take() == "{":
                found.setdefault(name, {})[json.loads(sign)] = self._body()
            elif sign == "=":
                found[name] = self._value()
            else:
                raise ValueError(f"= was expected after {name}")
        return found

    def _value(self) -> Any:
        word = self._take()
        if word != "[":
            return json.loads(word)
        values = []
        while (word := self._take()) != "]":
            if word != ",":
                values.append(json.loads(word))
        return values


@dataclass
class Rights:
    """What a request may do.

    Parameters:
        policies: of its token.
        management: everything.
    """

    policies: list[Policy] = field(default_factory=list)
    management: bool = False

    def may(self, capability: str, namespace: str) -> bool:
        """Whether they allow something in a namespace; the closest pattern of names counts."""
        if self.management:
            return True
        for policy in self.policies:
            names = [one for one in policy.namespaces if fnmatchcase(namespace, one)]
            if names:
                allowed = policy.namespaces[max(names, key=lambda one: (one == namespace, len(one)))]
                if capability in allowed and "deny" not in allowed:
                    return True
        return False

    def may_variable(self, capability: str, namespace: str, path: str) -> bool:
        """Whether they allow something on a variable; the closest patterns count."""
        if self.management:
            return True
        for policy in self.policies:
            names = [one for one in policy.variables if fnmatchcase(namespace, one)]
            paths = policy.variables[max(names, key=lambda one: (one == namespace, len(one)))] if names else {}
            fitting = [one for one in paths if fnmatchcase(path, one)]
            if fitting:
                allowed = paths[max(fitting, key=lambda one: (one == path, len(one)))]
                if capability in allowed and "deny" not in allowed:
                    return True
        return False

    def any_namespace(self, capability: str) -> bool:
        """Whether they allow something in some namespace."""
        return self.management or any(
            capability in allowed for policy in self.policies for allowed in policy.namespaces.values()
        )

    def other(self, what: str, level: str) -> bool:
        """Whether they allow to read or write `node`, `agent` or the like."""
        if self.management:
            return True
        given = {policy.others.get(what, "") for policy in self.policies}
        return "write" in given or (level == "read" and "read" in given)

    def need(self, capability: str, namespace: str) -> None:
        """Refuse what they do not allow.

        Raises:
            ApiError: 403.
        """
        if not self.may(capability, namespace):
            raise denied()

    def need_other(self, what: str, level: str) -> None:
        """Refuse what they do not allow.

        Raises:
            ApiError: 403.
        """
        if not self.other(what, level):
            raise denied()


class Access:
    """Who is who.

    Parameters:
        enabled: whether requests need a token at all.
    """

    def __init__(self, *, enabled: bool) -> None:
        self.enabled = enabled
        self.policies: dict[str, Object] = {}
        self.tokens: dict[str, Object] = {}
        self.bootstrap: str = self.token([], management=True)["SecretID"]

    def policy(self, name: str, rules: str, description: str = "") -> None:
        """Write a policy.

        Raises:
            ApiError: 400, it is none.
        """
        read(rules)
        self.policies[name] = {"Name": name, "Description": description, "Rules": rules}

    def token(self, policies: list[str], *, management: bool = False, name: str = "") -> Object:
        """Return a new token.

        Parameters:
            policies: names of its policies.
            management: it may do everything.
            name: what people call it.
        """
        made: Object = {
            "AccessorID": str(uuid.uuid4()), "SecretID": str(uuid.uuid4()), "Name": name, "Policies": policies,
            "Type": "management" if management else "client", "Global": False,
        }  # fmt: skip
        self.tokens[made["SecretID"]] = made
        return made

    def find(self, secret: str) -> Object | None:
        """Return a token, if there is one."""
        return self.tokens.get(secret)

    def rights(self, secret: str) -> Rights | None:
        """Return what a token allows; None for one that nobody knows, or that is none."""
        if not self.enabled:
            return Rights(management=True)
        if not secret:
            anonymous = self.policies.get("anonymous")
            return Rights([read(anonymous["Rules"])] if anonymous else [])
        token = self.tokens.get(secret)
        if token is None:
            return None
        known = [self.policies[name] for name in token["Policies"] if name in self.policies]
        return Rights([read(one["Rules"]) for one in known], token["Type"] == "management")
