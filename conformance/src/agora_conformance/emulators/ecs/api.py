"""Which action is carried out by what."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import cache

from agora_conformance.emulators.ecs.account import Account
from agora_conformance.emulators.ecs.definitions import Definitions
from agora_conformance.emulators.ecs.errors import ApiError, Object
from agora_conformance.emulators.ecs.faults import Faults
from agora_conformance.emulators.ecs.launch import Launcher
from agora_conformance.emulators.ecs.logs_api import LogsApi
from agora_conformance.emulators.ecs.model import Service, load
from agora_conformance.emulators.ecs.queues import Queues
from agora_conformance.emulators.ecs.secrets import SecretsApi
from agora_conformance.emulators.ecs.tags import Tags
from agora_conformance.emulators.ecs.tasks import Clusters, Tasks

Handler = Callable[[Object], Object | Awaitable[Object]]


@cache
def services() -> tuple[Service, ...]:
    """Return the services that the emulator knows."""
    return (load("ecs"), load("logs"), load("secretsmanager"), load("sqs", "InvalidParameterValue"))


class Api:
    """Carries requests out.

    Parameters:
        account: what they are about.
        faults: what goes wrong on purpose.
        queues: of SQS.
    """

    def __init__(self, account: Account, faults: Faults, queues: Queues) -> None:
        self.definitions = Definitions(account)
        self.launcher = Launcher(account, self.definitions, faults)
        tasks, clusters, logs = Tasks(account, faults), Clusters(account), LogsApi(account.logs)
        tags, secrets = Tags(account, self.definitions.tagged), SecretsApi(account)
        ecs: Mapping[str, Handler] = {
            "CreateCluster": clusters.create,
            "DeleteCluster": clusters.delete,
            "DescribeClusters": clusters.describe,
            "ListClusters": clusters.list,
            "RegisterTaskDefinition": self.definitions.register,
            "DescribeTaskDefinition": self.definitions.describe,
            "DeregisterTaskDefinition": self.definitions.deregister,
            "DeleteTaskDefinitions": self.definitions.delete,
            "ListTaskDefinitions": self.definitions.list,
            "ListTaskDefinitionFamilies": self.definitions.families,
            "RunTask": self.launcher.run,
            "StopTask": tasks.stop,
            "DescribeTasks": tasks.describe,
            "ListTasks": tasks.list,
            "TagResource": tags.tag,
            "UntagResource": tags.untag,
            "ListTagsForResource": tags.list,
        }
        self._handlers: Mapping[str, Mapping[str, Handler]] = {
            "ecs": ecs,
            "logs": {
                "CreateLogGroup": logs.create_group,
                "DeleteLogGroup": logs.delete_group,
                "PutRetentionPolicy": logs.retain,
                "CreateLogStream": logs.create_stream,
                "DeleteLogStream": logs.delete_stream,
                "DescribeLogGroups": logs.describe_groups,
                "DescribeLogStreams": logs.describe_streams,
                "GetLogEvents": logs.get,
                "FilterLogEvents": logs.filter,
            },
            "secretsmanager": {
                "CreateSecret": secrets.create,
                "PutSecretValue": secrets.put,
                "GetSecretValue": secrets.get,
                "DescribeSecret": secrets.describe,
                "ListSecrets": secrets.list,
                "DeleteSecret": secrets.delete,
            },
            "sqs": {
                "CreateQueue": queues.create,
                "DeleteQueue": queues.delete,
                "GetQueueUrl": queues.get_url,
                "GetQueueAttributes": queues.attributes,
                "ReceiveMessage": queues.receive,
                "DeleteMessage": queues.delete_message,
                "DeleteMessageBatch": queues.delete_messages,
            },
        }

    def find(self, target: str) -> tuple[Service, str, Handler]:
        """Return the service, the action and what carries it out.

        Parameters:
            target: the header X-Amz-Target.

        Raises:
            ApiError: the emulator does not know it.
        """
        prefix, _, action = target.rpartition(".")
        for service in services():
            if service.target == prefix and action in self._handlers[service.name]:
                return service, action, self._handlers[service.name][action]
        raise ApiError("UnknownOperationException", f"the emulator does not know {target or 'this request'}", 400)
