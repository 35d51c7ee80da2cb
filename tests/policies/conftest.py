"""What the tests of policies share: a client whose workloads nobody but itself looks after."""

from collections.abc import AsyncIterator

import pytest
from agora import AgoraClient

#: Every wait of these tests is bounded so, in seconds.
PATIENCE = 60.0


@pytest.fixture
async def agora(request: pytest.FixtureRequest) -> AsyncIterator[AgoraClient]:
    """Give a client whose workloads nobody but itself looks after; nothing of it is alive afterwards."""
    if "where" in request.fixturenames:
        request.getfixturevalue("where")  # it is configured first
    async with AgoraClient(actor="ann", supervisor=False) as client:
        yield client
        for record in await client.list(live=True):
            await client.cancel(record.id, force=True)
            await client.wait(record.id, confirmed=True, timeout=PATIENCE)
