"""The contract's words as types; import them from the submodules, which stay light on purpose."""
