"""Compares a CycloneDX document with the lock file and with the output of `cargo tree` on stdin.

usage: check_sbom.py DOCUMENT LOCK_FILE
"""

import json
import pathlib
import re
import sys


def lock_file(path):
    """The checksum of each crate of the lock file, by name and version; None for our own."""
    crates = {}
    for block in pathlib.Path(path).read_text().split("[[package]]")[1:]:
        fields = dict(re.findall(r'^(\w+) = "(.*)"$', block, re.M))
        crates[fields["name"], fields["version"]] = fields.get("checksum")
    return crates


def main(document, lock):
    bom = json.loads(pathlib.Path(document).read_text())
    locked = lock_file(lock)
    built = {(name, version) for name, version in re.findall(r"^(\S+) v(\S+)", sys.stdin.read(), re.M)}
    listed = {}
    wrong = []
    for component in bom["components"]:
        key = component["name"], component["version"]
        listed[key] = component
        name = " ".join(key)
        if key not in locked:
            wrong.append(f"{name} is not in the lock file")
            continue
        hashes = {entry["alg"]: entry["content"] for entry in component.get("hashes", [])}
        if hashes.get("SHA-256") != locked[key]:
            wrong.append(f"{name}: its checksum is not that of the lock file")
        if not component.get("licenses"):
            wrong.append(f"{name} has no licence")
        if not component.get("purl", "").startswith(f"pkg:cargo/{key[0]}@"):
            wrong.append(f"{name} has no package URL")
    own = bom["metadata"]["component"]
    built.discard((own["name"], own["version"]))
    wrong += [f"{' '.join(key)} is built and not listed" for key in sorted(built - listed.keys())]
    # Optional dependencies that no feature enables; listing them does no harm.
    more = len(listed.keys() - built)
    if bom["bomFormat"] != "CycloneDX" or not listed:
        wrong.append("no CycloneDX document")
    for line in wrong:
        print(f"sbom: {line}", file=sys.stderr)
    if not wrong:
        print(f"sbom: {document}: CycloneDX {bom['specVersion']}, {own['name']} {own['version']}, "
              f"{len(listed)} crates, each with licence, checksum and package URL; all {len(built)} that are built, "
              f"and {more} optional ones")
    return min(len(wrong), 1)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
