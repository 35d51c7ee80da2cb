"""Discovery and loading of providers and extensions, and the hook chain of one target."""

from agora.plugins.chain import Listeners, TargetHooks
from agora.plugins.discovery import ProviderStatus, list_providers, load_extensions, load_provider

__all__ = ["Listeners", "ProviderStatus", "TargetHooks", "list_providers", "load_extensions", "load_provider"]
