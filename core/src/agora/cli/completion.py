"""Shell completion: the script, and the ids of the store read directly, so that a key press stays fast."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from agora.cli.base import AgoraCommand
from agora.cli.output import write

if TYPE_CHECKING:
    pass

OFFERED = 50


@click.command(cls=AgoraCommand)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> int:
    """Print the completion script of a shell.

    \b
    bash: eval "$(agora completion bash)"      in ~/.bashrc
    zsh:  eval "$(agora completion zsh)"       in ~/.zshrc
    fish: agora completion fish | source       in ~/.config/fish/config.fish
    """
    from click.shell_completion import get_completion_class

    from agora.cli.app import app

    kind = get_completion_class(shell)
    if kind is None:
        raise click.UsageError(f"no completion for {shell}")
    write(kind(app, {}, "agora", "_AGORA_COMPLETE").source() + "\n")
    return 0
