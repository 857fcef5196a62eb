"""What is wrong with finished runs, as their summaries say: in sentences, and in a table's remark."""

import sys
from collections.abc import Mapping
from typing import Any


WHERE = "What is in doubt, and why, is in `doubts` of the run's summary.json."
_OF_THE_LAST_EPOCH = (
    "A seed that diverged, its numbers no longer finite, is in no figure of the last epoch.",
    WHERE,
)


def judge(summaries: Mapping[str, dict[str, Any]]) -> int:
    """Say what is wrong with the runs, under their names; the exit status: 1 if anything is."""
    said = []
    for name, summary in summaries.items():
        for seed, found in summary.get("seeds", {}).items():
            said += [f"{name}, seed {seed}: stopped in {found['stopped']}"] if _diverged(found) else []
            said += [f"{name}, seed {seed}: {' '.join(found['doubts'])}"] if found.get("doubts") else []
    for line in said:
        print(line, file=sys.stderr)
    return 1 if said else 0


def remark(summary: dict[str, Any]) -> str:
    """What is to be known of scores that are means over these seeds; empty where that is nothing."""
    seeds = list(summary["seeds"].values())
    remarks = {
        "pruned": [found.get("stopped_by") == "on_epoch" for found in seeds],
        "diverged": [_diverged(found) for found in seeds],
        "in doubt": [bool(found.get("doubts")) for found in seeds],
    }
    said = [
        name if all(holds) else f"{sum(holds)} of {len(seeds)} seeds {name}"
        for name, holds in remarks.items()
        if any(holds)
    ]
    scored = sum(summary["metric"] in found for found in seeds)
    said += [f"scores of {scored} of {len(seeds)} seeds"] if 0 < scored < len(seeds) else []
    return ", ".join(said)


def remarked(label: str, found: Mapping[str, Any]) -> str:
    """What a row is called, with the remark on its scores, if there is one."""
    return f"{label} ({found['remark']})" if "remark" in found else label


def explained(rows: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...]:
    """What a table of the last epoch says below about its remarks; nothing where there are none."""
    return _OF_THE_LAST_EPOCH if any("remark" in found for found in rows.values()) else ()


def _diverged(found: dict[str, Any]) -> bool:
    """Whether a seed's numbers were no longer finite, which is what stopped those that do not say it."""
    return bool(found.get("stopped")) and found.get("stopped_by", "divergence") == "divergence"
