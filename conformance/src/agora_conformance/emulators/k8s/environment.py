"""What a container is started with: environment, command, user."""

from __future__ import annotations

import base64
from dataclasses import dataclass

from agora_conformance.emulators.k8s.errors import Object
from agora_conformance.emulators.k8s.expansion import expand
from agora_conformance.emulators.k8s.resources import CONFIG_MAPS, SECRETS, Resource
from agora_conformance.emulators.k8s.store import Store
from agora_conformance.emulators.runner import ContainerSpec, Image

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#: What every pod finds in its environment, service links or not.
SERVICE = {
    "KUBERNETES_SERVICE_HOST": "10.96.0.1",
    "KUBERNETES_SERVICE_PORT": "443",
    "KUBERNETES_SERVICE_PORT_HTTPS": "443",
    "KUBERNETES_PORT": "tcp://10.96.0.1:443",
    "KUBERNETES_PORT_443_TCP": "tcp://10.96.0.1:443",
    "KUBERNETES_PORT_443_TCP_PROTO": "tcp",
    "KUBERNETES_PORT_443_TCP_PORT": "443",
    "KUBERNETES_PORT_443_TCP_ADDR": "10.96.0.1",
}
UNITS = {
    "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "m": 1e-3,
}  # fmt: skip


class ConfigError(Exception):
    """The kubelet cannot make the container: `CreateContainerConfigError`."""


def quantity(text: str | int) -> float:
    """Read a quantity of the API, such as `64Mi` or `100m`."""
    text = str(text)
    for unit, factor in UNITS.items():
        if text.endswith(unit):
            return float(text.removesuffix(unit)) * factor
    return float(text)


@dataclass(frozen=True)
class Maker:
    """Turns a pod's container into what the runner starts.

    Parameters:
        store: where Secrets and ConfigMaps are.
        node, address: name and address of the node.
    """

    store: Store
    node: str
    address: str

    def make(self, pod: Object, container: Object, image: Image) -> ContainerSpec:
        """Return what to start.

        Raises:
            ConfigError: something that the container refers to is missing, or it may not run as root.
        """
        variables = self._environment(pod, container)
        user, group = self._user(pod, container, image)
        argv = self._command(container, image, variables)
        limit = (container.get("resources") or {}).get("limits", {}).get("memory")
        host = pod["spec"].get("hostname") or (self.node if pod["spec"].get("hostNetwork") else pod["metadata"]["name"])
        home = {"PATH": PATH, "HOSTNAME": host, "HOME": "/root" if user == 0 else "/"}
        return ContainerSpec(
            argv=tuple(argv),
            env={**home, **image.env, **SERVICE, **variables},
            cwd=container.get("workingDir") or image.cwd,
            shared=bool(pod["spec"].get("shareProcessNamespace")),
            memory=int(quantity(limit)) if limit else None,
            user=user,
            group=group,
            message=container.get("terminationMessagePath", "/dev/termination-log") == "/dev/termination-log",
        )

    @staticmethod
    def _command(container: Object, image: Image, variables: dict[str, str]) -> list[str]:
        known = {**SERVICE, **variables}
        command = [expand(part, known) for part in container.get("command") or []]
        arguments = [expand(part, known) for part in container.get("args") or []]
        if command:
            return command + arguments
        argv = [*image.entrypoint, *(arguments or image.command)]
        if not argv:
            raise ConfigError("no command specified")
        return argv

    @staticmethod
    def _user(pod: Object, container: Object, image: Image) -> tuple[int, int]:
        context = {**(pod["spec"].get("securityContext") or {}), **(container.get("securityContext") or {})}
        user = context.get("runAsUser")
        user = image.user if user is None else user
        if context.get("runAsNonRoot") and user == 0:
            where = f'(pod: "{pod["metadata"]["name"]}_{pod["metadata"]["namespace"]}'
            where += f'({pod["metadata"]["uid"]})", container: {container["name"]})'
            cause = "container's runAsUser breaks non-root policy" if context.get("runAsUser") == 0 else (
                "container has runAsNonRoot and image will run as root"
            )  # fmt: skip
            raise ConfigError(f"{cause} {where}")
        group = context.get("runAsGroup")
        return int(user), int(0 if group is None else group)

    # -- environment ---------------------------------------------------------------------------------------------

    def _environment(self, pod: Object, container: Object) -> dict[str, str]:
        found: dict[str, str] = {}
        for source in container.get("envFrom") or []:
            for kind, resource in (("secretRef", SECRETS), ("configMapRef", CONFIG_MAPS)):
                if (ref := source.get(kind)) is not None:
                    data = self._data(pod, resource, ref["name"], optional=bool(ref.get("optional")))
                    found |= {source.get("prefix", "") + key: value for key, value in data.items()}
        for variable in container.get("env") or []:
            if variable.get("valueFrom"):
                value = self._value(pod, variable["valueFrom"])
                if value is None:
                    continue
            else:
                value = expand(variable.get("value") or "", {**SERVICE, **found})
            found[variable["name"]] = value
        return found

    def _data(self, pod: Object, resource: Resource, name: str, *, optional: bool) -> dict[str, str]:
        item = self.store.find(resource, pod["metadata"]["namespace"], name)
        if item is None:
            if optional:
                return {}
            raise ConfigError(f'{resource.kind.lower()} "{name}" not found')
        data: dict[str, str] = item.get("data") or {}
        if resource is not SECRETS:
            return data
        return {key: base64.b64decode(value).decode("utf-8", "surrogateescape") for key, value in data.items()}

    def _value(self, pod: Object, source: Object) -> str | None:
        for kind, resource in (("secretKeyRef", SECRETS), ("configMapKeyRef", CONFIG_MAPS)):
            if (ref := source.get(kind)) is not None:
                data = self._data(pod, resource, ref["name"], optional=bool(ref.get("optional")))
                if ref["key"] in data:
                    return data[ref["key"]]
                if ref.get("optional"):
                    return None
                where = f"{pod['metadata']['namespace']}/{ref['name']}"
                raise ConfigError(f"couldn't find key {ref['key']} in {resource.kind} {where}")
        if (ref := source.get("fieldRef")) is not None:
            return self._field(pod, ref["fieldPath"])
        raise ConfigError(f"the emulator does not know this source of a variable: {', '.join(source)}")

    def _field(self, pod: Object, path: str) -> str:
        for group in ("labels", "annotations"):
            if path.startswith(f"metadata.{group}['"):
                return str((pod["metadata"].get(group) or {}).get(path.split("'")[1], ""))
        known = {
            "metadata.name": pod["metadata"]["name"],
            "metadata.namespace": pod["metadata"]["namespace"],
            "metadata.uid": pod["metadata"]["uid"],
            "spec.nodeName": self.node,
            "spec.serviceAccountName": pod["spec"].get("serviceAccountName", "default"),
            "status.podIP": self.address,
            "status.hostIP": self.address,
        }
        if path not in known:
            raise ConfigError(f"unsupported fieldPath: {path}")
        return str(known[path])
