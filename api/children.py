"""Threats, assets, documents, notes and repositories: one set of routes, registered for each kind."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import partial
from typing import Any, TypeVar

from pydantic import BaseModel
from quart import Blueprint, Response
from quart_schema import operation_id, tag

from api import bodies, patch, reads, schemas
from api.context import caller, context, model_for, model_to_list, model_to_restore, parse_uuid, services
from api.deeds import deed
from api.documented import operation
from api.preconditions import etag, expected_version
from tmi.domain.children import Child, ChildChange, Draft, listed, shown
from tmi.domain.errors import BadInput, NotFound
from tmi.domain.events import ChangeType
from tmi.domain.ids import ChildId, ThreatModelId
from tmi.domain.kinds import KINDS, Kind
from tmi.domain.ports import Page
from tmi.domain.roles import Action
from tmi.domain.versions import check_version

View = TypeVar("View", bound=Callable[..., Any])

READ = (400, 401, 403, 404, 503)
WRITE = (400, 401, 403, 404, 409, 413, 415, 503)
PLAIN = (400, 401, 403, 404, 413, 415, 503)
"""Of what contradicts nothing."""


def described(text: str) -> Callable[[View], View]:
    """What a handler says of itself, where a kind's name is in it."""

    def decorate(view: View) -> View:
        view.__doc__ = text
        return view

    return decorate


def child_routes() -> Blueprint:
    """The routes of all kinds."""
    routes = Blueprint("children", __name__)
    for kind in KINDS:
        _add_collection(routes, kind)
        if kind.bulk_most:
            _add_bulk(routes, kind)
        if kind.has_all_bulk:
            _add_more_bulk(routes, kind)
        _add_reading_and_deleting(routes, kind)
        _add_writing(routes, kind)
    return routes


def _paths(kind: Kind) -> tuple[str, str, Callable[[dict[str, str]], ChildId]]:
    """The path of all, of one, and the id out of the latter."""
    all_ = f"/threat_models/<threat_model_id>/{kind.plural}"
    name = f"{kind.name}_id"
    return all_, f"{all_}/<{name}>", lambda ids: ChildId(parse_uuid(ids[name]))


def _add_collection(routes: Blueprint, kind: Kind) -> None:
    all_, _, _ = _paths(kind)
    forms = schemas.CHILD_BODIES[kind.name]

    @routes.post(all_, endpoint=f"create_{kind.name}")
    @tag([kind.plural.capitalize()])
    @operation_id(f"createThreatModel{kind.title}")
    @operation(body=forms.input, answers={201: forms.output}, errors=PLAIN)
    @described(f"Create one of a threat model's {kind.plural}")
    async def create(threat_model_id: str) -> Response:
        model = await model_for(threat_model_id, Action.WRITE)
        draft, _ = schemas.draft_of(kind, await bodies.read_model(forms.input))
        done = deed(ChangeType.CREATED)
        (made,) = await context().to_the_end(services().children.create(model, kind, [draft], done))
        return _answer(kind, made, 201, {"Location": f"/threat_models/{model}/{kind.plural}/{made.id}"})

    order = "newest first" if kind.is_filtered else "oldest first"

    @routes.get(all_, endpoint=f"list_{kind.plural}")
    @tag([kind.plural.capitalize()])
    @operation_id(f"getThreatModel{kind.plural.capitalize()}")
    @operation(query=forms.query, answers={200: forms.page}, errors=READ)
    @described(f"List a threat model's {kind.plural}, {order} if nothing else is asked for")
    async def page(threat_model_id: str) -> Response:
        query = bodies.read_query(forms.query)
        if query.include_deleted:
            return await _page_with_deleted(kind, threat_model_id, query)
        model = ThreatModelId(parse_uuid(threat_model_id))
        found = await reads.page(services(), caller().user.id, model, kind, query)
        if found is None:
            await model_for(threat_model_id, Action.READ)  # which says why
            raise NotFound("There is no such threat model.")
        return bodies.answer(found.body)


def _add_reading_and_deleting(routes: Blueprint, kind: Kind) -> None:
    _, one, key = _paths(kind)
    forms = schemas.CHILD_BODIES[kind.name]
    deleting = (*READ, 409) if kind.has_version else READ
    headers = schemas.IfMatch if kind.has_version else None

    @routes.get(one, endpoint=f"get_{kind.name}")
    @tag([kind.plural.capitalize()])
    @operation_id(f"getThreatModel{kind.title}")
    @operation(answers={200: forms.output}, errors=READ)
    @described(f"Get one of a threat model's {kind.plural}")
    async def get(threat_model_id: str, **ids: str) -> Response:
        model, child = ThreatModelId(parse_uuid(threat_model_id)), key(ids)
        found = await reads.child(services(), caller().user.id, model, kind, child)
        if found is None:
            await model_for(threat_model_id, Action.READ)  # which says why
            raise NotFound(f"There is no such {kind.name}.")
        return bodies.answer(found.body, 200, etag(found.version))

    @routes.delete(one, endpoint=f"delete_{kind.name}")
    @tag([kind.plural.capitalize()])
    @operation_id(f"deleteThreatModel{kind.title}")
    @operation(headers=headers, answers={204: None}, errors=deleting)
    @described(f"Delete one of a threat model's {kind.plural}\n\nIt can be restored for a time.")
    async def delete(threat_model_id: str, **ids: str) -> Response:
        model = await model_for(threat_model_id, Action.WRITE)
        expected = expected_version(of_deletion=True) if kind.has_version else None
        done = deed(ChangeType.DELETED)
        work = services().children.mark(model, kind, [key(ids)], done, deleted=True, expected=expected)
        await context().to_the_end(work)
        return bodies.no_content()

    @routes.post(f"{one}/restore", endpoint=f"restore_{kind.name}")
    @tag([kind.plural.capitalize()])
    @operation_id(f"restore{kind.title}")
    @operation(answers={200: forms.output}, errors=(*READ, 409))
    @described(f"Restore one of a threat model's {kind.plural} that was deleted")
    async def restore(threat_model_id: str, **ids: str) -> Response:
        model = await model_to_restore(threat_model_id)
        done = deed(ChangeType.RESTORED)
        work = services().children.mark(model, kind, [key(ids)], done, deleted=False)
        (restored,) = await context().to_the_end(work)
        return _answer(kind, restored)


def _add_writing(routes: Blueprint, kind: Kind) -> None:
    _, one, key = _paths(kind)
    forms = schemas.CHILD_BODIES[kind.name]
    errors = (*WRITE, 428) if kind.has_version else WRITE
    replacing = errors if kind.has_version else PLAIN
    headers = schemas.IfMatch if kind.has_version else None

    @routes.put(one, endpoint=f"update_{kind.name}")
    @tag([kind.plural.capitalize()])
    @operation_id(f"updateThreatModel{kind.title}")
    @operation(body=forms.input, headers=headers, answers={200: forms.output}, errors=replacing)
    @described(f"Replace one of a threat model's {kind.plural}\n\nMetadata that are not given stay.")
    async def update(threat_model_id: str, **ids: str) -> Response:
        model = await model_for(threat_model_id, Action.WRITE)
        given = await bodies.read_model(forms.input)
        expected = expected_version() if kind.has_version else None

        def replaced(before: Child) -> Draft:
            check_version(expected, before.version, kind.name)
            return _replaced(kind, before, given)

        done = deed(ChangeType.UPDATED)
        work = services().children.change(model, kind, [ChildChange(key(ids), replaced)], done)
        (after,) = await context().to_the_end(work)
        return _answer(kind, after)

    @routes.patch(one, endpoint=f"patch_{kind.name}")
    @tag([kind.plural.capitalize()])
    @operation_id(f"patchThreatModel{kind.title}")
    @operation(
        body=schemas.JsonPatch,
        media_types=(bodies.JSON_PATCH,),
        headers=headers,
        answers={200: forms.output},
        errors=errors,
    )
    @described(f"Change one of a threat model's {kind.plural} by JSON Patch\n\n{_patchable(kind)}")
    async def change(threat_model_id: str, **ids: str) -> Response:
        model = await model_for(threat_model_id, Action.WRITE)
        operations = (await bodies.read_model(schemas.JsonPatch, bodies.JSON_PATCH)).root
        patch.check_paths(operations, _patch_paths(kind))
        expected = expected_version() if kind.has_version else None

        def patched(before: Child) -> Draft:
            check_version(expected, before.version, kind.name)
            return _patched(kind, before, operations)

        done = deed(ChangeType.PATCHED)
        change = ChildChange(key(ids), patched, weight=bodies.length())
        work = services().children.change(model, kind, [change], done)
        (after,) = await context().to_the_end(work)
        return _answer(kind, after)


def _add_bulk(routes: Blueprint, kind: Kind) -> None:
    all_, _, _ = _paths(kind)
    forms = schemas.CHILD_BODIES[kind.name]
    plural = kind.plural.capitalize()
    upserts = not kind.has_all_bulk
    update_id = f"bulk{'Upsert' if upserts else 'Update'}ThreatModel{plural}"
    answers: dict[int, type[BaseModel] | None] = {200: forms.outputs}
    if upserts:
        answers[201] = forms.outputs
    unknown = "\n\nThose of an id that is new are created, and then the status is 201." if upserts else ""

    @routes.post(f"{all_}/bulk", endpoint=f"bulk_create_{kind.plural}")
    @tag([plural])
    @operation_id(f"bulkCreateThreatModel{plural}")
    @operation(body=forms.inputs, answers={201: forms.outputs}, errors=PLAIN)
    @described(f"Create several of a threat model's {kind.plural}, or none")
    async def create(threat_model_id: str) -> Response:
        model = await model_for(threat_model_id, Action.WRITE)
        given = (await bodies.read_model(forms.inputs)).root
        drafts = [schemas.draft_of(kind, entry)[0] for entry in given]
        work = services().children.create(model, kind, drafts, deed(ChangeType.CREATED))
        return _answer_all(await context().to_the_end(work), 201)

    @routes.put(f"{all_}/bulk", endpoint=f"bulk_update_{kind.plural}")
    @tag([plural])
    @operation_id(update_id)
    @operation(body=forms.updates, answers=answers, errors=WRITE if upserts else PLAIN)
    @described(f"Replace several of a threat model's {kind.plural}, or none{unknown}")
    async def update(threat_model_id: str) -> Response:
        model = await model_for(threat_model_id, Action.WRITE)
        given = (await bodies.read_model(forms.updates)).root
        changes = [
            ChildChange(
                ChildId(parse_uuid(entry.id)),
                partial(_replaced, kind, given=entry),
                schemas.draft_of(kind, entry)[0] if upserts else None,
            )
            for entry in given
        ]
        _check_once([change.id for change in changes])
        work = services().children.change(model, kind, changes, deed(ChangeType.UPDATED))
        written = await context().to_the_end(work)
        # Only what is new has the first version: each change raises it.
        return _answer_all(written, 201 if any(child.version == 1 for child in written) else 200)


def _add_more_bulk(routes: Blueprint, kind: Kind) -> None:
    all_, _, _ = _paths(kind)
    forms = schemas.CHILD_BODIES[kind.name]
    plural = kind.plural.capitalize()

    @routes.patch(f"{all_}/bulk", endpoint=f"bulk_patch_{kind.plural}")
    @tag([plural])
    @operation_id(f"bulkPatchThreatModel{plural}")
    @operation(body=schemas.BulkPatch, answers={200: forms.outputs}, errors=WRITE)
    @described(f"Change several of a threat model's {kind.plural} by JSON Patch, or none")
    async def change(threat_model_id: str) -> Response:
        model = await model_for(threat_model_id, Action.WRITE)
        given = (await bodies.read_model(schemas.BulkPatch)).patches
        for entry in given:
            patch.check_paths(entry.operations.root, _patch_paths(kind))
        changes = [
            ChildChange(
                ChildId(parse_uuid(entry.id)),
                partial(_patched, kind, operations=entry.operations.root),
                weight=bodies.length(),
            )
            for entry in given
        ]
        _check_once([change.id for change in changes])
        work = services().children.change(model, kind, changes, deed(ChangeType.PATCHED))
        return _answer_all(await context().to_the_end(work))

    @routes.delete(f"{all_}/bulk", endpoint=f"bulk_delete_{kind.plural}")
    @tag([plural])
    @operation_id(f"bulkDeleteThreatModel{plural}")
    @operation(query=schemas.ThreatIdsQuery, answers={200: schemas.BulkDeletion}, errors=READ)
    @described(f"Delete several of a threat model's {kind.plural}, or none\n\nThey can be restored.")
    async def delete(threat_model_id: str) -> Response:
        model = await model_for(threat_model_id, Action.WRITE)
        keys = [ChildId(parse_uuid(key)) for key in bodies.read_query(schemas.ThreatIdsQuery).threat_ids]
        _check_once(keys)
        done = deed(ChangeType.DELETED)
        work = services().children.mark(model, kind, keys, done, deleted=True)
        gone = await context().to_the_end(work)
        return bodies.answer({"deleted_count": len(gone), "deleted_ids": [child.id for child in gone]})


# --- parts --------------------------------------------------------------------------------------


async def _page_with_deleted(kind: Kind, threat_model_id: str, query: schemas.DeletedQuery) -> Response:
    model = await model_to_list(threat_model_id, deleted=True)
    part = Page(query.limit, query.offset)
    found, total = await services().children.page(model, kind, reads.wanted(query), part)
    counts = {"total": total, "limit": query.limit, "offset": query.offset}
    return bodies.answer({kind.plural: [shown(child) for child in found], **counts})


def _replaced(kind: Kind, before: Child, given: BaseModel) -> Draft:
    draft, has_metadata = schemas.draft_of(kind, given)
    return draft if has_metadata else Draft(draft.fields, before.metadata)


def _patched(kind: Kind, before: Child, operations: Sequence[schemas.JsonPatchOperation]) -> Draft:
    document: dict[str, Any] = {field.name: before.fields.get(field.name) for field in kind.fields}
    document = {
        name: value for name, value in document.items() if value is not None or kind.field(name).nullable
    }
    if kind.takes_metadata:
        document["metadata"] = listed(before.metadata)
    # What is in it belongs to the child as it is stored, which a patch may not reach.
    after = patch.patched(deepcopy(document), [op.raw for op in operations], kind.name)
    return _replaced(kind, before, bodies.checked(schemas.CHILD_BODIES[kind.name].input, after))


def _patch_paths(kind: Kind) -> frozenset[str]:
    names = {field.name for field in kind.fields}
    return frozenset(names | {"metadata"} if kind.takes_metadata else names)


def _patchable(kind: Kind) -> str:
    return f"Paths: {', '.join(f'`/{name}`' for name in sorted(_patch_paths(kind)))}, and what is in them."


def _check_once(keys: Sequence[ChildId]) -> None:
    if len(set(keys)) != len(keys):
        raise BadInput("an id is there twice")


def _answer(
    kind: Kind, child: Child, status: int = 200, headers: dict[str, str] | None = None
) -> Response:
    version = etag(child.version) if kind.has_version else {}
    return bodies.answer(shown(child), status, {**version, **(headers or {})})


def _answer_all(children: Sequence[Child], status: int = 200) -> Response:
    return bodies.answer_list([shown(child) for child in children], status)
