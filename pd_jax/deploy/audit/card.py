"""A policy card: what a machine has to know of a policy before it lets it act, out of an audit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

CARD_NAME = "policy_card.json"
CARD_VERSION = 1
_WORST_KINDS = 5
_WORST_STATES = 5


def policy_card(report: Mapping[str, Any]) -> dict[str, Any]:
    """The card of an audited student; ``docs/audit.md`` says what each entry is.

    Its parts are of the manner of Policy Cards (Mavracic 2025, arXiv 2510.24383): meta, scope, evidence, monitoring.

    Args:
      report: what ``audit.json`` holds.
    """
    student, teacher, scores = report["student"], report["teacher"], report["scores"]
    measured = [row for row in report["agreement"]["kinds"] if row["states"] and row["share"] >= 0.01]
    measured.sort(key=lambda row: row["agreement"]["value"])
    return {
        "format_version": CARD_VERSION,
        "meta": {
            "name": student["name"],
            "created": report["created"],
            "by": f"pd-jax audit {report['versions']['pd_jax']}",
            "licence": student["licence"],
            "teacher": teacher["name"],
            "teacher_licence": teacher["licence"],
        },
        "scope": {
            "game": report["game"],
            "env_id": report["env_id"],
            "actions": report["action_names"],
            "observations": report["kind"],
            "protocol": report["protocol"],
            "not_for": [
                row["name"] for row in report["outside"] if row["student_lost"] and row["student_lost"]["value"] >= 0.5
            ],
        },
        "scores": {
            "student": _without_returns(scores["student"]),
            "teacher": _without_returns(scores["teacher"]),
            "random": scores["random"],
        },
        "agreement": {
            "states": report["states"],
            "temperature": report["temperature"],
            "overall": report["agreement"]["overall"],
            "kinds": report["agreement"]["kinds"],
        },
        "worst_cases": {
            "game": None if scores["student"] is None else scores["student"]["worst"],
            "kinds": [
                {key: row[key] for key in ("family", "name", "share", "agreement")} for row in measured[:_WORST_KINDS]
            ],
            "states": [
                {key: state[key] for key in ("game", "step", "kl", "teacher_choice", "student_choice")}
                for state in report["worst"][:_WORST_STATES]
            ],
        },
        "outside": [
            {
                "name": row["name"],
                "student": _without_returns(row["student"]),
                "teacher": _without_returns(row["teacher"]),
                "agreement": row["agreement"]["agreement"],
                "student_lost": row["student_lost"],
            }
            for row in report["outside"]
        ],
        "findings": report["findings"],
        "monitoring": {"thresholds": report.get("thresholds")},
        "provenance": {
            "student": {
                key: student.get(key)
                for key in ("source", "network", "parameters", "parameters_sha256", "file_sha256", "updates")
            },
            "teacher": {key: teacher.get(key) for key in ("source", "network", "parameters", "file_sha256")},
            "taught_by_sha256": student.get("taught_by_sha256"),
            "learnt_from_recording": student.get("recording"),
            "audited_on_recording": report["states"]["recording"],
            "versions": report["versions"],
        },
    }


def _without_returns(summary: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return None if summary is None else {key: value for key, value in summary.items() if key != "returns"}
