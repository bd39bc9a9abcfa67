"""Metadata of threat models, diagrams and all other children: one set of routes, registered for each."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from quart import Blueprint, Response
from quart_schema import operation_id, tag

from api import bodies, schemas
from api.children import PLAIN, READ, WRITE, described
from api.context import context, model_for, parse_uuid, services
from api.deeds import deed
from api.documented import operation
from tmi.domain.children import Entity, listed
from tmi.domain.errors import BadInput, Conflict, NotFound
from tmi.domain.events import ChangeType, Deed
from tmi.domain.ids import ChildId
from tmi.domain.kinds import DIAGRAM_KIND, KINDS
from tmi.domain.roles import Action
from tmi.domain.webhooks import METADATA_CREATED, METADATA_DELETED, METADATA_UPDATED

Values = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class _Holder:
    """What has metadata, and what the contract calls its operations."""

    kind: str | None
    path: str
    words: str
    title: str
    updates: str
    """What its operation that changes one value is called after."""

    async def entity(self, ids: dict[str, str], action: Action) -> Entity:
        """What a path means, if the caller may do `action`. Raises BadInput, NotFound and Forbidden."""
        model = await model_for(ids["threat_model_id"], action)
        if self.kind is None:
            return Entity(model)
        return Entity(model, self.kind, ChildId(parse_uuid(ids[f"{self.kind}_id"])))


def _holders() -> list[_Holder]:
    model = "/threat_models/<threat_model_id>"
    plurals = {DIAGRAM_KIND: "diagrams"} | {kind.name: kind.plural for kind in KINDS}
    holders = [_Holder(None, model, "a threat model", "ThreatModel", "ByKey")]
    for name, plural in plurals.items():
        title, updates = name.capitalize(), "ByKey"
        if name == "asset":
            title, updates = "ThreatModelAsset", ""
        holders.append(
            _Holder(name, f"{model}/{plural}/<{name}_id>", f"one of the {plural}", title, updates)
        )
    return holders


def metadata_routes() -> Blueprint:
    """The routes of all that have metadata."""
    routes = Blueprint("metadata", __name__)
    for holder in _holders():
        _add_all(routes, holder)
        _add_one(routes, holder)
        _add_bulk(routes, holder)
    return routes


def _add_all(routes: Blueprint, holder: _Holder) -> None:
    path, name = f"{holder.path}/metadata", holder.title

    @routes.get(path, endpoint=f"list_{name}")
    @tag(["Metadata"])
    @operation_id(f"get{name}Metadata")
    @operation(answers={200: schemas.MetadataList}, errors=READ)
    @described(f"List the metadata of {holder.words}, by key")
    async def page(**ids: str) -> Response:
        entity = await holder.entity(ids, Action.READ)
        return bodies.answer_list(listed(await services().metadata.of(entity)))

    @routes.post(path, endpoint=f"create_{name}")
    @tag(["Metadata"])
    @operation_id(f"create{name}Metadata")
    @operation(body=schemas.Metadata, answers={201: schemas.Metadata}, errors=WRITE)
    @described(f"Add a key to the metadata of {holder.words}")
    async def create(**ids: str) -> Response:
        entity = await holder.entity(ids, Action.WRITE)
        given = await bodies.read_model(schemas.Metadata)
        await _change(entity, lambda before: _added(before, {given.key: given.value}), METADATA_CREATED)
        return bodies.answer(given, 201)


def _add_one(routes: Blueprint, holder: _Holder) -> None:
    path, name = f"{holder.path}/metadata/<key>", holder.title

    @routes.get(path, endpoint=f"get_{name}")
    @tag(["Metadata"])
    @operation_id(f"get{name}MetadataByKey")
    @operation(answers={200: schemas.Metadata}, errors=READ)
    @described(f"Get a value of the metadata of {holder.words}")
    async def get(key: str, **ids: str) -> Response:
        entity = await holder.entity(ids, Action.READ)
        metadata = await services().metadata.of(entity)
        return bodies.answer({"key": key, "value": _present(metadata, key)})

    @routes.put(path, endpoint=f"update_{name}")
    @tag(["Metadata"])
    @operation_id(f"update{name}Metadata{holder.updates}")
    @operation(body=schemas.MetadataValue, answers={200: schemas.Metadata}, errors=PLAIN)
    @described(f"Replace a value of the metadata of {holder.words}")
    async def update(key: str, **ids: str) -> Response:
        entity = await holder.entity(ids, Action.WRITE)
        given = await bodies.read_model(schemas.MetadataValue)
        if given.key not in (None, key):
            raise BadInput("the key is not that of the path")
        value = given.value

        def replaced(before: Values) -> Values:
            _present(before, key)
            return {**before, key: value}

        await _change(entity, replaced)
        return bodies.answer({"key": key, "value": value})

    @routes.delete(path, endpoint=f"delete_{name}")
    @tag(["Metadata"])
    @operation_id(f"delete{name}Metadata{holder.updates}")
    @operation(answers={204: None}, errors=READ)
    @described(f"Delete a key of the metadata of {holder.words}")
    async def delete(key: str, **ids: str) -> Response:
        entity = await holder.entity(ids, Action.WRITE)

        def without(before: Values) -> Values:
            _present(before, key)
            return {name: value for name, value in before.items() if name != key}

        await _change(entity, without, METADATA_DELETED)
        return bodies.no_content()


def _add_bulk(routes: Blueprint, holder: _Holder) -> None:
    path, name = f"{holder.path}/metadata/bulk", holder.title

    def add(
        method: Callable[..., Callable[..., object]],
        verb: str,
        about: str,
        make: Callable[[Values, Values], Values],
        status: int,
    ) -> None:
        errors = WRITE if make is _added else PLAIN

        @method(path, endpoint=f"bulk_{verb}_{name}")
        @tag(["Metadata"])
        @operation_id(f"bulk{verb.capitalize()}{name}Metadata")
        @operation(body=schemas.MetadataInput, answers={status: schemas.MetadataList}, errors=errors)
        @described(about)
        async def bulk(**ids: str) -> Response:
            entity = await holder.entity(ids, Action.WRITE)
            entries = (await bodies.read_model(schemas.MetadataInput)).root
            given = {entry.key: entry.value for entry in entries}
            told = METADATA_CREATED if make is _added else METADATA_UPDATED
            after = await _change(entity, lambda before: make(before, given), told)
            shown = given if make is _added else after
            return bodies.answer_list(listed(shown), status)

    add(routes.post, "create", f"Add several keys to the metadata of {holder.words}, or none", _added, 201)
    add(routes.put, "replace", f"Replace all metadata of {holder.words}", lambda _, given: given, 200)
    add(
        routes.patch,
        "upsert",
        f"Add keys to the metadata of {holder.words}, or replace their values",
        lambda before, given: {**before, **given},
        200,
    )


async def _change(entity: Entity, make: Callable[[Values], Values], told: str = METADATA_UPDATED) -> Values:
    def bounded(before: Values) -> Values:
        after = make(before)
        if len(after) > max(schemas.MAX_METADATA, len(before)):
            raise BadInput(f"there would be more than {schemas.MAX_METADATA} keys")
        return after

    done = replace(deed(ChangeType.PATCHED), also=told)
    return await context().to_the_end(_written(entity, bounded, done))


async def _written(entity: Entity, make: Callable[[Values], Values], done: Deed) -> Values:
    if entity.kind is not None:
        return await services().metadata.change(entity, make, done)
    # In the queue of those who write the threat model itself, or each of these would send them back to read.
    async with context().queue_of(entity.threat_model):
        return await services().metadata.change(entity, make, done)


def _added(before: Values, given: Values) -> Values:
    there = sorted(before.keys() & given.keys())
    if there:
        raise Conflict(f"there is a key {there[0]} already")
    return {**before, **given}


def _present(metadata: Values, key: str) -> str:
    if key not in metadata:
        raise NotFound("There is no such key.")
    return metadata[key]
