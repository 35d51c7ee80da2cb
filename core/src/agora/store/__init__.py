"""The journal and the state directory."""

from agora.store.home import default_home
from agora.store.rows import Filter
from agora.store.store import Applied, Store

__all__ = ["Applied", "Filter", "Store", "default_home"]
