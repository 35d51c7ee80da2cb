"""The rights that this provider needs: `python -m agora_fargate.iam --help` says how to print the policy."""

from __future__ import annotations

import argparse
import json
import sys
from importlib.resources import files
from typing import Any


def policy(
    *, account: str, region: str, cluster: str, log_group: str, roles: tuple[str, ...], queue: str | None = None
) -> dict[str, Any]:
    """Return the policy of whoever runs Agora.

    Parameters:
        account, region, cluster, log_group: as the target is configured.
        roles: ARNs of the execution role and the task roles, which are passed on.
        queue: ARN of the queue of events; without one its statement is left out.
    """
    made = _filled("iam-policy.json", REGION=region, ACCOUNT=account, CLUSTER=cluster, LOG_GROUP=log_group)
    given: dict[str, Any] = {"ROLES": list(roles), "QUEUE": queue}
    for statement in made["Statement"]:
        if isinstance(statement["Resource"], str):
            statement["Resource"] = given.get(statement["Resource"], statement["Resource"])
    made["Statement"] = [one for one in made["Statement"] if one["Resource"]]
    return made


def execution_policy(*, account: str, region: str, log_group: str) -> dict[str, Any]:
    """Return the policy of the execution role, with which ECS writes logs and reads inline secrets.

    Parameters:
        account, region, log_group: as the target is configured.
    """
    return _filled("execution-policy.json", REGION=region, ACCOUNT=account, LOG_GROUP=log_group)


def _filled(file: str, **values: str) -> dict[str, Any]:
    text = (files("agora_fargate") / file).read_text(encoding="utf-8")
    for name, value in values.items():
        text = text.replace(name, json.dumps(value)[1:-1])
    made: dict[str, Any] = json.loads(text)
    return made


def main(arguments: list[str] | None = None) -> int:
    """Print the policy, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m agora_fargate.iam", description="Print the IAM policy of Agora.")
    parser.add_argument("--account", required=True, help="number of the account")
    parser.add_argument("--region", required=True)
    parser.add_argument("--cluster", default="default", help="name of the cluster")
    parser.add_argument("--log-group", default="/agora")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--role", action="append", help="ARN of the execution role, and of task roles")
    which.add_argument("--execution", action="store_true", help="print the policy of the execution role instead")
    parser.add_argument("--queue", help="ARN of the queue of events")
    given = parser.parse_args(arguments)
    if given.execution:
        made = execution_policy(account=given.account, region=given.region, log_group=given.log_group)
        sys.stdout.write(json.dumps(made, indent=2) + "\n")
        return 0
    made = policy(
        account=given.account,
        region=given.region,
        cluster=given.cluster,
        log_group=given.log_group,
        roles=tuple(given.role),
        queue=given.queue,
    )
    sys.stdout.write(json.dumps(made, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
