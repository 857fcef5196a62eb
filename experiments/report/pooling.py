"""Runs that differ in their seeds alone, as one."""

import json
import pathlib
from collections.abc import Sequence
from typing import Any

from options.config import MAY_DIFFER
from report.finished import read_json

from dfc_jax._runs.folder import first_difference, summary_of


OWN = ("seeds", *(name for name in MAY_DIFFER if name != "epochs"))


def pool(folders: Sequence[pathlib.Path], out: pathlib.Path) -> pathlib.Path:
    """Write `config.json`, `metrics.jsonl` and `summary.json` of all `folders` to `out`; returns it.

    **Raises:** `ValueError` if they are not finished runs of the same options, or have a seed in common.
    """
    helds, summaries = (
        [read_json(folder / name) for folder in folders] for name in ("config.json", "summary.json")
    )
    for folder, held in zip(folders[1:], helds[1:], strict=True):
        difference = first_difference(helds[0]["config"], held["config"], OWN)
        if difference is not None:
            problem = f"{str(folder)!r} differs from {str(folders[0])!r} in `{difference[0]}`"
            raise ValueError(f"{problem}, not in its seeds alone.")
    seeds = {seed: found for summary in summaries for seed, found in summary["seeds"].items()}
    if len(seeds) < sum(len(summary["seeds"]) for summary in summaries):
        raise ValueError("the runs have a seed in common; pool those of different seeds.")
    if out.exists():
        raise ValueError(f"`out` is {str(out)!r}, which exists; name a new folder.")
    texts = [(folder / "metrics.jsonl").read_text(encoding="utf-8") for folder in folders]
    lines = [line for text in texts for line in text.splitlines()]
    lines.sort(key=lambda line: json.loads(line)["epoch"])
    commands = "; ".join(held["environment"]["command"] for held in helds)
    config = helds[0]["config"] | {"seeds": [int(seed) for seed in seeds]}
    if "out" in config:  # which other scripts' runs do not note
        config["out"] = str(out)
    environment = helds[0]["environment"] | {"command": commands}
    summary = summary_of(seeds, summaries[0]["metric"])
    out.mkdir(parents=True)
    for name, text in (
        ("config.json", json.dumps({"config": config, "environment": environment}, indent=2)),
        ("metrics.jsonl", "".join(f"{line}\n" for line in lines)),
        ("summary.json", json.dumps(summary, indent=2)),
    ):
        (out / name).write_text(text, encoding="utf-8")
    return out


def by_seeds(folders: Sequence[pathlib.Path]) -> list[list[pathlib.Path]]:
    """Runs that differ in their seeds alone, side by side; all in the order of the first of each."""
    groups: list[tuple[dict[str, Any], set[int], list[pathlib.Path]]] = []
    for folder in folders:
        config = read_json(folder / "config.json")["config"]
        seeds = set(config["seeds"])
        for first, taken, members in groups:
            if not taken & seeds and first_difference(first, config, OWN) is None:
                taken |= seeds
                members.append(folder)
                break
        else:
            groups.append((config, seeds, [folder]))
    return [members for _, _, members in groups]
