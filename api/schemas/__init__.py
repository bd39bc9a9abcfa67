"""The JSON of the contract: what requests may hold and what answers look like."""

from api.schemas.accounts import *
from api.schemas.base import *
from api.schemas.browser import *
from api.schemas.cells import *
from api.schemas.children import *
from api.schemas.collaboration import *
from api.schemas.credentials import *
from api.schemas.diagrams import *
from api.schemas.discovery import *
from api.schemas.events import *
from api.schemas.operations import *
from api.schemas.parameters import *
from api.schemas.people import *
from api.schemas.providers import *
from api.schemas.quotas import *
from api.schemas.sessions import *
from api.schemas.settings import *
from api.schemas.sign_in import *
from api.schemas.threat_models import *
from api.schemas.webhooks import *
