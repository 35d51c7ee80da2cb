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
IDS = """
SELECT id, state FROM dispatches
WHERE id LIKE :pattern AND (:ended OR state IN ('pending', 'submitted', 'running', 'stopping'))
ORDER BY live DESC, id DESC LIMIT :most
"""
NAMES = """
SELECT name, state FROM dispatches
WHERE run = :run AND substr(name, 1, length(:begin)) = :begin
    AND state IN ('pending', 'submitted', 'running', 'stopping')
ORDER BY name LIMIT :most
"""
RUNS = """
SELECT run, '' FROM (SELECT run FROM runs UNION SELECT run FROM dispatches WHERE run IS NOT NULL)
WHERE substr(run, 1, length(:begin)) = :begin
ORDER BY run LIMIT :most
"""
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


def stored_ids(ctx: click.Context, incomplete: str, *, ended: bool = True) -> list[CompletionItem]:
    """Return the newest ids of the store that begin with what was typed, or else that end with it.

    Parameters:
        ended: offer ended ones too.
    """
    if not set(incomplete) <= ID_LETTERS:
        return []
    for pattern in (f"{incomplete}%", f"%{incomplete}"):
        if found := _found(ctx, IDS, pattern=pattern, ended=ended):
            return found
    return []


def stored_names(ctx: click.Context, run: str, incomplete: str) -> list[CompletionItem]:
    """Return the names of a run's dispatches that have not ended and begin with what was typed."""
    return _found(ctx, NAMES, run=run, begin=incomplete)


def stored_runs(ctx: click.Context, incomplete: str) -> list[CompletionItem]:
    """Return the names of runs that begin with what was typed."""
    return _found(ctx, RUNS, begin=incomplete)


def _found(ctx: click.Context, query: str, **values: str | bool) -> list[CompletionItem]:
    """Ask the database itself: importing the store's code takes longer than a key press should."""
    import sqlite3
    from contextlib import closing

    from click.shell_completion import CompletionItem

    database = state_directory(ctx.find_object(Session)) / "agora.db"
    if not database.is_file():
        return []
    try:
        with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True, timeout=0.2)) as connection:
            rows = connection.execute(query, {**values, "most": OFFERED}).fetchall()
    except sqlite3.Error:
        return []
    return [CompletionItem(text, help=state) for text, state in rows]


def state_directory(session: Session | None) -> Path:
    """Return the state directory as the store finds it."""
    if session and session.home:
        return session.home.absolute()
    if home := os.environ.get("AGORA_HOME"):
        return Path(home).expanduser().absolute()
    from platformdirs import user_state_path

    return user_state_path("agora", appauthor=False)
