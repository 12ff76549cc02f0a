"""``pd-jax push``: shows what would be sent to the hub, leaves it in a folder, or sends it."""

from __future__ import annotations

from pd_jax.config.push import PushConfig
from pd_jax.deploy.push import Pushed, run_push
from pd_jax.system.text import spell_bytes


def run(config: PushConfig) -> None:
    """Prepares a publication, and prints it."""
    for line in describe(run_push(config)):
        print(line)


def describe(pushed: Pushed) -> list[str]:
    """What was, or would be, sent: the card in full, the files with their sizes, and what became of them."""
    total = sum(map(len, pushed.files.values()))
    width = max(map(len, pushed.files))
    lines = [*pushed.card.splitlines(), ""] if pushed.outcome is None else []
    lines += [f"  {name:{width}}  {spell_bytes(len(content)):>9}" for name, content in pushed.files.items()]
    if pushed.out is not None:
        lines.append(f"{pushed.out}: all of this")
    if pushed.outcome is None:
        lines.append(f"{pushed.address}: nothing was sent; {spell_bytes(total)} would be: add --send")
        return lines
    made = "made, and " if pushed.outcome.is_new else ""
    removed = f"; taken away: {', '.join(pushed.outcome.removed)}" if pushed.outcome.removed else ""
    lines.append(f"{pushed.address}: {made}holds it as commit {pushed.outcome.commit[:12]}{removed}")
    lines.append(pushed.outcome.url)
    return lines
