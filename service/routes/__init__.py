"""The only files that know addresses. One file for each task, and one for what surrounds them."""

from service.routes.base import Endpoint
from service.routes.classify import CLASSIFY
from service.routes.qa import QA
from service.routes.summarize import SUMMARIZE

ENDPOINTS: tuple[Endpoint, ...] = (QA, CLASSIFY, SUMMARIZE)
