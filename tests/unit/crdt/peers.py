"""Independent Yjs documents (pycrdt's) that edit as clients do."""

import random
from typing import Any

import pycrdt
from pycrdt import Array, Doc, Map, Text


class Editor:
    """One client: its document, and every update it made."""

    def __init__(self, client: int) -> None:
        self.doc: Doc[Any] = Doc(client_id=client)
        self.cells = self.doc.get("cells", type=Map)
        self.text = self.doc.get("text", type=Text)
        self.list = self.doc.get("list", type=Array)
        self.updates: list[bytes] = []
        self._receiving = False
        self.doc.observe(lambda event: None if self._receiving else self.updates.append(event.update))

    def receive(self, *updates: bytes) -> None:
        self._receiving = True
        self.doc.apply_update(pycrdt.merge_updates(*updates, b"\0\0", b"\0\0"))
        self._receiving = False

    def edit(self, choice: random.Random) -> None:
        """Change something at random, in one transaction."""
        key = f"k{choice.randrange(5)}"
        with self.doc.transaction():
            match choice.randrange(7):
                case 0:
                    self.cells[key] = Map(
                        {"position": {"x": 1, "y": 2}, "data": Map({"z": [1, "two", None]})}
                    )
                case 1 if key in self.cells:
                    del self.cells[key]
                case 2:
                    self.cells["p" + key] = {"x": choice.random()}
                case 3:
                    self.text.insert(choice.randrange(len(self.text) + 1), "hello")
                case 4 if len(self.text) > 3:
                    del self.text[0:2]
                case 5:
                    self.list.append(Map({"q": 1}))
                case 6 if len(self.list) > 1:
                    del self.list[0]


def content(doc: "Doc[Any]") -> tuple[object, ...]:
    """Everything that a document shows."""
    cells, text, items = doc.get("cells", type=Map), doc.get("text", type=Text), doc.get("list", type=Array)
    return cells.to_py(), str(text), items.to_py()


def history(seed: int, length: int = 40) -> tuple[list[bytes], "Doc[Any]"]:
    """The updates that three clients made, each seeing the others' now and then, and where they end."""
    choice = random.Random(seed)
    editors = [Editor(10 + n) for n in range(3)]
    for _ in range(length):
        editor = choice.choice(editors)
        if choice.random() < 0.4:
            editor.receive(*(update for other in editors for update in other.updates))
        editor.edit(choice)
    updates = [update for editor in editors for update in editor.updates]
    editors[0].receive(*updates)
    return updates, editors[0].doc
