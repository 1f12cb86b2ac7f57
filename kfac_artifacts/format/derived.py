"""What a manifest says of files that hold the base model in another form (7.2)."""

from dataclasses import asdict
from typing import Any

from kfac_artifacts.artifact import BaseModel, DerivedFile
from kfac_artifacts.json_object import JsonObject


def derived_to_json(base: BaseModel) -> dict[str, Any]:
    """What the description of a base model says of such files; nothing without any."""
    if not base.derived:
        return {}
    files = [asdict(file) for file in base.derived]
    return {"derived": {"must_understand": False, "files": files}}


def derived_from_json(fields: JsonObject) -> tuple[DerivedFile, ...]:
    """Take what ``derived_to_json`` wrote, if it is there."""
    value = fields.optional("derived", dict)
    if value is None:
        return ()
    own = JsonObject(value, f"{fields.where}.derived")
    own.require(own.take("must_understand", bool) is False, "must_understand is false")
    files = own.list_of("files", _file)
    own.finish()
    own.require(len(files) > 0, "files must not be empty")
    once = len({file.sha256 for file in files}) == len(files)
    own.require(once, "files: one sha256 twice")
    return files


def _file(value: object, where: str) -> DerivedFile:
    fields = JsonObject(value, where)
    how = fields.maybe_name("how")
    found = DerivedFile(fields.name("name"), fields.sha256("sha256"), how)
    fields.finish()
    return found
