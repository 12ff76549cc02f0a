"""``python -m pd_jax.resources.doctor``: the doctor where what reads ``pd-jax``'s own command line is broken."""

from __future__ import annotations

from pd_jax.resources.doctor.doctor import examine

diagnosis = examine(out="runs", timeout=120.0)
print("\n".join(diagnosis.lines()))
raise SystemExit(0 if diagnosis.is_sound else 1)
