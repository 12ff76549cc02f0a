"""``pd-jax lineage``: prints what a product came from, and names each file of it that is not what was written."""

from __future__ import annotations

from pd_jax.config.lineage import LineageConfig
from pd_jax.deploy.lineage import verify_lineage
from pd_jax.errors import UserError
from pd_jax.system.text import spell_count


def run(config: LineageConfig) -> None:
    """Prints the tree; a UserError at its end names what was altered."""
    verified = verify_lineage(config.directory, config.search or ())
    for line in verified.lines():
        print(line)
    if faults := verified.all_faults:
        are = "is" if len(faults) == 1 else "are"
        raise UserError(f"{spell_count(len(faults), 'file')} {are} not what was written: {'; '.join(faults)}")
