"""The journal and the state directory."""

from agora.store.applied import Applied
from agora.store.below import Requested
from agora.store.home import default_home
from agora.store.rows import Filter
from agora.store.store import Store

__all__ = ["Applied", "Filter", "Requested", "Store", "default_home"]
