"""Writes schemas as kubeconform reads them: KIND-GROUP-VERSION.json of Kubernetes from the package
kubernetes-validate, and GROUP/KIND_VERSION.json of custom resources from their definitions.

usage: schemas.py FOLDER VERSION CRD_FILE...
"""

import json
import pathlib
import sys

import kubernetes_validate
import yaml

# How the package refers to its file with the shared parts.
SHARED = "/api/_definitions.json"


def strict(schema):
    """Refuses unknown fields, as an API server does with strict validation."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {key: strict(value) if key != "properties" else {name: strict(each) for name, each in value.items()}
              for key, value in schema.items() if key != "format"}
    if "properties" in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
        schema.setdefault("additionalProperties", False)
    if schema.pop("x-kubernetes-int-or-string", False):
        schema = {"type": ["integer", "string"]}
    return schema


def main(folder, version, *files):
    own = pathlib.Path(kubernetes_validate.__file__).parent / "kubernetes-json-schema" / f"v{version}-local-strict"
    pathlib.Path(folder).mkdir()
    for path in (*own.glob("*-v[12]*.json"), own / "_definitions.json"):
        schema = json.loads(path.read_text().replace(SHARED, "_definitions.json"))
        # So that the reference is relative to the file.
        del schema["$id"]
        pathlib.Path(folder, path.name).write_text(json.dumps(schema))
    for file in files:
        for crd in yaml.load_all(pathlib.Path(file).read_text(), Loader=yaml.CSafeLoader):
            if not crd or crd["kind"] != "CustomResourceDefinition":
                continue
            group, kind = crd["spec"]["group"], crd["spec"]["names"]["kind"].lower()
            for version in crd["spec"]["versions"]:
                schema = strict(version["schema"]["openAPIV3Schema"])
                schema["properties"] |= {"apiVersion": {"type": "string"}, "kind": {"type": "string"}, "metadata": {"type": "object"}}
                path = pathlib.Path(folder, group, f"{kind}_{version['name']}.json")
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps(schema))


if __name__ == "__main__":
    main(*sys.argv[1:])
