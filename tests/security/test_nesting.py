"""Nested types are walked by recursion in yrs: a document made of nothing else must not end the process."""

import subprocess
import sys

NEST = """
from tmi.serve import _deepen_stack
from pycrdt import Doc, Map

_deepen_stack()
from crdt.document import Document
from crdt.lib0 import write_var_uint

levels = 100_000
root = b"\\x27\\x01\\x05cells\\x01a\\x01"
nested = b"".join(b"\\x27\\x00\\x07" + write_var_uint(n) + b"\\x01a\\x01" for n in range(levels - 1))
update = b"\\x01" + write_var_uint(levels) + b"\\x07\\x00" + root + nested + b"\\x00"
document = Document()
assert document.apply(update).adds
before = document.state_vector()


def delete(doc):
    del doc.get("cells", type=Map)["a"]


document.transact(delete)
print("alive", len(document.encode()))
"""


def test_a_document_of_a_hundred_thousand_nested_types_does_not_end_the_process() -> None:
    done = subprocess.run(
        [sys.executable, "-c", NEST], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout.startswith("alive"), (done.returncode, done.stderr[-500:])
