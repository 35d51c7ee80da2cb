"""The kinds of objects that the emulated API server knows."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Resource:
    """A kind of objects.

    Parameters:
        group, version: where it lives; the core group is empty.
        plural, kind, short: its names.
        namespaced: whether its objects live in namespaces.
        subresources: what may follow a name in a path.
    """

    group: str
    version: str
    plural: str
    kind: str
    short: tuple[str, ...] = ()
    namespaced: bool = True
    subresources: tuple[str, ...] = ()

    @property
    def qualified(self) -> str:
        """The name that error messages use."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def api_version(self) -> str:
        """The value of `apiVersion`."""
        return f"{self.group}/{self.version}" if self.group else self.version


_RBAC = ("rbac.authorization.k8s.io", "v1")

PODS = Resource("", "v1", "pods", "Pod", ("po",), subresources=("status", "log", "eviction", "binding"))
SECRETS = Resource("", "v1", "secrets", "Secret")
CONFIG_MAPS = Resource("", "v1", "configmaps", "ConfigMap", ("cm",))
SERVICE_ACCOUNTS = Resource("", "v1", "serviceaccounts", "ServiceAccount", ("sa",))
EVENTS = Resource("", "v1", "events", "Event", ("ev",))
NAMESPACES = Resource("", "v1", "namespaces", "Namespace", ("ns",), namespaced=False, subresources=("status",))
NODES = Resource("", "v1", "nodes", "Node", ("no",), namespaced=False, subresources=("status",))
JOBS = Resource("batch", "v1", "jobs", "Job", subresources=("status",))
ROLES = Resource(*_RBAC, "roles", "Role")
ROLE_BINDINGS = Resource(*_RBAC, "rolebindings", "RoleBinding")
CLUSTER_ROLES = Resource(*_RBAC, "clusterroles", "ClusterRole", namespaced=False)
CLUSTER_ROLE_BINDINGS = Resource(*_RBAC, "clusterrolebindings", "ClusterRoleBinding", namespaced=False)
ACCESS_REVIEWS = Resource(
    "authorization.k8s.io", "v1", "selfsubjectaccessreviews", "SelfSubjectAccessReview", namespaced=False
)

RESOURCES = (
    *(PODS, SECRETS, CONFIG_MAPS, SERVICE_ACCOUNTS, EVENTS, NAMESPACES, NODES, JOBS),
    *(ROLES, ROLE_BINDINGS, CLUSTER_ROLES, CLUSTER_ROLE_BINDINGS, ACCESS_REVIEWS),
)
BY_PATH = {(item.group, item.version, item.plural): item for item in RESOURCES}
BY_KIND = {(item.api_version, item.kind): item for item in RESOURCES}
