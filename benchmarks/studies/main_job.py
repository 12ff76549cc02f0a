"""Puts a finished run of the main job among the results: its summary, its settings, its plot.

pd-jax distill --config configs/pong.yaml --out runs/pong
python -m benchmarks.studies.main_job --run runs/pong
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from benchmarks.harness import record
from pd_jax.errors import UserError
from pd_jax.runs.directory import read_run


def main() -> None:
    """Writes ``benchmarks/results/pong_net2.json`` and ``.png``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="directory of the run, made on this machine")
    parser.add_argument("--name", default="pong_net2", help="of the result files")
    options = parser.parse_args()
    try:
        run = read_run(options.run)
        summary = run.read_summary()
        if summary is None:
            raise UserError(f"{options.run}: has not ended")
    except UserError as error:
        parser.error(str(error))
    config = {key: value for key, value in run.config.items() if key != "out"}
    path = record.write(options.name, {"settings": config, **summary})
    shutil.copyfile(run.path / "progress.png", path.with_suffix(".png"))
    print(path)


if __name__ == "__main__":
    main()
