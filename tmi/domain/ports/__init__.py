"""The ports: what the inside of TMI asks of the outside, in domain words.

Each has one contract test suite in `tests/contracts` that every adapter passes, the in-memory one included.
Any method may raise `DatabaseUnavailable` when the store does not answer; the caller may try again.
"""

from tmi.domain.ports.access import *
from tmi.domain.ports.accounts import *
from tmi.domain.ports.audit import *
from tmi.domain.ports.browser import *
from tmi.domain.ports.children import *
from tmi.domain.ports.collaboration import *
from tmi.domain.ports.diagram_writes import *
from tmi.domain.ports.events import *
from tmi.domain.ports.operations import *
from tmi.domain.ports.providers import *
from tmi.domain.ports.quotas import *
from tmi.domain.ports.reads import *
from tmi.domain.ports.rooms import *
from tmi.domain.ports.settings import *
from tmi.domain.ports.sign_in import *
from tmi.domain.ports.threat_models import *
from tmi.domain.ports.webhooks import *
