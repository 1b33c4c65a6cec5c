"""LinkService, put together."""

from opennotice.link.v1 import link_pb2_grpc

from services.link.rpc.directory import Directory
from services.link.rpc.links import Links
from services.link.rpc.messages import Messages
from services.link.rpc.people import Campaigns, Clients
from services.link.rpc.portals import Portals
from services.link.rpc.redirects import Redirects


class LinkService(
    Portals, Clients, Campaigns, Messages, Links, Redirects, Directory, link_pb2_grpc.LinkServiceServicer
):
    """Answers every rpc of the contract with the part that knows its noun."""
