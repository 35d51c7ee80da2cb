"""Who asks, and what they may do: tokens, and the rules of loaded Roles."""

from __future__ import annotations

import secrets

from agora_conformance.emulators.k8s.errors import ApiError, Object, forbidden
from agora_conformance.emulators.k8s.resources import (
    CLUSTER_ROLE_BINDINGS,
    CLUSTER_ROLES,
    ROLE_BINDINGS,
    ROLES,
    Resource,
)
from agora_conformance.emulators.k8s.store import Store

ADMIN, ANONYMOUS = "kubernetes-admin", "system:anonymous"


class Access:
    """Knows users by their tokens and asks the RBAC objects in the store.

    Parameters:
        store: where Roles and bindings are.
        open: requests without a token are the administrator's; else they are anonymous.
    """

    def __init__(self, store: Store, *, open: bool = True) -> None:
        self._store = store
        self._open = open
        self.admin_token = secrets.token_urlsafe(16)
        self._users = {self.admin_token: ADMIN}

    def token(self, user: str) -> str:
        """Return a new token of a user, such as `system:serviceaccount:NAMESPACE:NAME`."""
        token = secrets.token_urlsafe(16)
        self._users[token] = user
        return token

    def user(self, authorization: str) -> str:
        """Return who sends this Authorization header.

        Raises:
            ApiError: 401, nobody knows the token.
        """
        if not authorization:
            return ADMIN if self._open else ANONYMOUS
        user = self._users.get(authorization.removeprefix("Bearer "))
        if user is None:
            raise ApiError(401, "Unauthorized", "Unauthorized")
        return user

    def check(self, user: str, verb: str, resource: Resource, subresource: str, namespace: str, name: str) -> None:
        """Refuse what no rule allows.

        Raises:
            ApiError: 403.
        """
        if not self.allowed(user, verb, resource.group, resource.plural, subresource, namespace, name):
            raise forbidden(user, verb, resource, subresource, namespace, name)

    def allowed(
        self, user: str, verb: str, group: str, plural: str, subresource: str, namespace: str, name: str
    ) -> bool:
        """Whether some rule allows it."""
        if user == ADMIN:
            return True
        what = f"{plural}/{subresource}" if subresource else plural
        if plural == "selfsubjectaccessreviews":
            return True
        return any(
            {verb, "*"} & set(rule.get("verbs") or [])
            and {group, "*"} & set(rule.get("apiGroups") or [])
            and {what, "*", f"*/{subresource}"} & set(rule.get("resources") or [])
            and (not rule.get("resourceNames") or name in rule["resourceNames"])
            for rule in self._rules(user, namespace)
        )

    def _rules(self, user: str, namespace: str) -> list[Object]:
        bindings = self._store.items(CLUSTER_ROLE_BINDINGS)
        if namespace:
            bindings = bindings + self._store.items(ROLE_BINDINGS, namespace)
        found: list[Object] = []
        for binding in bindings:
            if not any(_is(subject, user, binding) for subject in binding.get("subjects") or []):
                continue
            ref = binding["roleRef"]
            kind = ROLES if ref["kind"] == "Role" else CLUSTER_ROLES
            role = self._store.find(kind, binding["metadata"].get("namespace", ""), ref["name"])
            found += (role or {}).get("rules") or []
        return found


def _is(subject: Object, user: str, binding: Object) -> bool:
    if subject.get("kind") == "ServiceAccount":
        namespace = subject.get("namespace") or binding["metadata"].get("namespace", "")
        return user == f"system:serviceaccount:{namespace}:{subject['name']}"
    if subject.get("kind") == "Group":
        return bool(
            subject["name"] == "system:authenticated"
            or (subject["name"] == "system:serviceaccounts" and user.startswith("system:serviceaccount:"))
        )
    return bool(subject.get("name") == user)
