"""Checks the wheels in a directory: what must be inside is, what must not be is not."""

import sys
import zipfile
from pathlib import Path

WANTED = {
    "blockframe_certify": [
        "blockframe/__init__.py",
        "blockframe/py.typed",
        "blockframe/certificate/schema.json",
    ],
    "blockframe_nn": ["blockframe_nn/__init__.py"],
    "blockframe_transformers": ["blockframe_transformers/__init__.py"],
    "blockframe_example": [],
}


def complaints(wheels: list[Path]) -> list[str]:
    """What is wrong with ``wheels``, one line each."""
    by_name = {wheel.name.partition("-")[0]: wheel for wheel in wheels}
    found = [f"no wheel of {name}" for name in WANTED if name not in by_name]
    for name, wheel in by_name.items():
        files = zipfile.ZipFile(wheel).namelist()
        found += [f"{wheel.name}: {f} is missing" for f in WANTED.get(name, []) if f not in files]
        # One package a wheel: tests or docs beside it would land in every site-packages.
        tops = {f.partition("/")[0] for f in files if ".dist-info/" not in f}
        if len(tops) != 1:
            found.append(f"{wheel.name}: holds {', '.join(sorted(tops))}, expected one package")
        if not any(".dist-info/licenses/" in f for f in files) and name == "blockframe_certify":
            found.append(f"{wheel.name}: no licence")
        if not any(f.endswith(".dist-info/entry_points.txt") for f in files):
            found.append(f"{wheel.name}: no entry points")
    return found


if __name__ == "__main__":
    wheels = sorted(Path(sys.argv[1]).glob("*.whl"))
    bad = complaints(wheels)
    print("\n".join(bad or [f"{len(wheels)} wheels as they should be"]))
    sys.exit(bool(bad))
