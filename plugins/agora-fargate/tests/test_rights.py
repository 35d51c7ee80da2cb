"""The policy in the package is enough, and no more than enough."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from agora.errors import PermissionDenied
from agora.model.ids import new_dispatch_id
from agora.model.observation import Phase
from agora_conformance.emulators.ecs import EcsEmulator, Timing
from agora_fargate import iam
from agora_fargate.api import OPERATIONS
from agora_fargate.definitions import Definitions
from fargate_harness import GROUP, ROLE, Hands

pytestmark = pytest.mark.backend("fargate")

WHERE = {"account": "123456789012", "region": "eu-central-1", "cluster": "default", "log_group": GROUP}
#: Not requests of their own: roles and tags are passed with others, a batch is deleted by the right to delete one.
INDIRECT = {"iam:PassRole", "ecs:TagResource", "secretsmanager:TagResource", "sqs:DeleteMessage"}


def actions(policy: dict[str, Any]) -> set[str]:
    found: set[str] = set()
    for statement in policy["Statement"]:
        some = statement["Action"]
        found |= {some} if isinstance(some, str) else set(some)
    return found


def test_the_policy_names_exactly_what_is_called() -> None:
    whole = iam.policy(**WHERE, roles=(ROLE,), queue="arn:aws:sqs:eu-central-1:123456789012:agora")
    assert "*" not in "".join(actions(whole))
    called = {f"{service}:{operation}" for operation, (service, _) in OPERATIONS.items()}
    assert actions(whole) - INDIRECT == called - {"sqs:DeleteMessageBatch"}


def test_the_policy_is_enough_for_a_whole_life(tmp_path: Path) -> None:
    policy = iam.policy(**WHERE, roles=(ROLE,))
    timing = Timing().hurried(0.02)
    with EcsEmulator(timing=timing, log_groups=(GROUP,), policy=policy, throttle=False) as emulator:
        hands = Hands(emulator, tmp_path)
        handle = hands.start()
        hands.ready(handle)
        hands.stop(handle)
        assert hands.end(handle).exit_code == 42
        assert hands.provider.find(handle.id) is not None
        assert hands.provider.find(new_dispatch_id()) is None
        hands.provider.release(handle)
        secret = hands.start("exit 0", secrets={"A": "x"})
        assert hands.provider._made.inline.is_there(secret.id, hands.installation)
        hands.end(secret)
        hands.provider.release(secret)
        assert list(hands.provider.list_owned(hands.installation)) == []
        definitions = Definitions(hands.api)
        [family] = definitions.unused("default")
        assert definitions.remove(family) == 1
        asked = {f"{call.service}:{call.action}" for call in emulator.faults.requests()}
        hands.clean()
    assert asked == actions(policy) - INDIRECT


def test_a_missing_right_is_told_with_where_the_credentials_come_from(hands: Hands) -> None:
    handle = hands.start()
    hands.ready(handle)
    hands.emulator.faults.deny(action="StopTask")
    with pytest.raises(PermissionDenied, match=r"not authorized to perform.*profile 'emulated'.*config-file"):
        hands.stop(handle)
    assert hands.observe(handle).phase is Phase.RUNNING
    hands.emulator.faults.expire_credentials(action="DescribeTasks")
    with pytest.raises(PermissionDenied, match=r"token included in the request is expired"):
        hands.observe(handle)


def test_the_policy_reaches_no_secret_of_others(tmp_path: Path) -> None:
    policy = iam.policy(**WHERE, roles=(ROLE,))
    with EcsEmulator(log_groups=(GROUP,), policy=policy, throttle=False) as emulator:
        hands = Hands(emulator, tmp_path)
        client = hands.api._connection.client("secretsmanager")
        for name in ("agora-x/y", "x/agora/y"):
            for call, request in (
                (client.create_secret, {"Name": name, "SecretString": "x"}),
                (client.delete_secret, {"SecretId": name, "ForceDeleteWithoutRecovery": True}),
                (client.describe_secret, {"SecretId": name}),
                (client.get_secret_value, {"SecretId": name}),
            ):
                with pytest.raises(client.exceptions.ClientError, match="not authorized"):
                    call(**request)
        with pytest.raises(client.exceptions.ClientError, match="not authorized"):
            client.get_secret_value(SecretId="agora/i/x")  # only the execution role reads them


def test_the_policy_of_the_execution_role_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert iam.main(["--account", "1", "--region", "us-east-1", "--log-group", "/x", "--execution"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == iam.execution_policy(account="1", region="us-east-1", log_group="/x")
    assert actions(printed) == {"logs:CreateLogStream", "logs:PutLogEvents", "secretsmanager:GetSecretValue"}
    text = json.dumps(printed)
    assert "arn:aws:secretsmanager:us-east-1:1:secret:agora/*" in text
    assert not any(word in text for word in ("REGION", "ACCOUNT", "LOG_GROUP"))


def test_the_policy_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    told = ["--account", "1", "--region", "us-east-1", "--cluster", "c", "--log-group", "/x", "--role", "arn:r"]
    assert iam.main(told) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == iam.policy(account="1", region="us-east-1", cluster="c", log_group="/x", roles=("arn:r",))
    text = json.dumps(printed)
    for word in ("REGION", "ACCOUNT", "CLUSTER", "LOG_GROUP", "ROLES", "QUEUE"):
        assert word not in text
