"""Shell completion: the script, and the ids of the store read directly, so that a key press stays fast."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from agora.cli.base import AgoraCommand, Session
from agora.cli.output import write

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

OFFERED = 50
ID_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-")


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


def stored_ids(ctx: click.Context, incomplete: str) -> list[CompletionItem]:
    """Return the newest ids of the store that begin with what was typed, or else that end with it.

    The store's own code is not used: importing it takes longer than a key press should.
    """
    import sqlite3

    from click.shell_completion import CompletionItem

    database = state_directory(ctx.find_object(Session)) / "agora.db"
    if not database.is_file() or not set(incomplete) <= ID_LETTERS:
        return []
    try:
        connection = sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True, timeout=0.2)
        try:
            for pattern in (f"{incomplete}%", f"%{incomplete}"):
                query = "SELECT id, state FROM dispatches WHERE id LIKE ? ORDER BY live DESC, id DESC LIMIT ?"
                if rows := connection.execute(query, (pattern, OFFERED)).fetchall():
                    return [CompletionItem(id, help=state) for id, state in rows]
        finally:
            connection.close()
    except sqlite3.Error:
        return []
    return []


def state_directory(session: Session | None) -> Path:
    """Return the state directory as the store finds it."""
    if session and session.home:
        return session.home.absolute()
    if home := os.environ.get("AGORA_HOME"):
        return Path(home).expanduser().absolute()
    from platformdirs import user_state_path

    return user_state_path("agora", appauthor=False)
