"""Builds the file that tells which network an address belongs to, from lists of address ranges.

mmdb-writer writes the file; its own way of inserting networks takes 41 s for half a million of them. Ours fills the
same tree from ranges that are sorted, so that each one starts where the last one ended: 7 s.
"""

import csv
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from mmdb_writer import MMDBWriter, SearchTreeLeaf, SearchTreeNode

# Readers that know MaxMind's names look for "GeoLite2-ASN" in the type.
DATABASE_TYPE = "OpenNotice-GeoLite2-ASN (RouteViews, DB-IP and NRO data, CC BY 4.0)"
_BITS = 128


def build_asn_file(lists: Path, target: Path, published: datetime) -> int:
    """Writes the file from asn-ipv4-num.csv and asn-ipv6-num.csv; returns how many ranges are in it."""
    writer = _Writer(6, DATABASE_TYPE, ipv4_compatible=True, int_type="u32")
    writer.published = published
    tree = _Tree(writer.tree)
    count = 0
    # IPv4 addresses lie at the very beginning of the IPv6 space, so all ranges come in order.
    for name in ("asn-ipv4-num.csv", "asn-ipv6-num.csv"):
        for first, last, number, holder in _rows(lists / name):
            tree.insert(first, last, number, holder)
            count += 1
    writer.to_db_file(str(target))
    return count


def _rows(path: Path) -> Iterator[tuple[int, int, int, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        for first, last, number, holder in csv.reader(file):
            yield int(first), int(last), int(number), holder


class _Writer(MMDBWriter):
    """A writer that dates the file as its data are: staff see how old they are, not when this machine packed them."""

    published: datetime

    def _build_meta(self) -> dict[str, Any]:
        return {**super()._build_meta(), "build_epoch": int(self.published.timestamp())}


class _Tree:
    """The writer's search tree, filled from the lowest address to the highest."""

    def __init__(self, root: SearchTreeNode) -> None:
        # The nodes from the root to where the last network was put.
        self._path = [root]
        self._last = -1
        self._last_bits = 0
        self._leaves: dict[tuple[int, str], SearchTreeLeaf] = {}

    def insert(self, first: int, last: int, number: int, holder: str) -> None:
        """Inserts a range as the networks it is made of."""
        if first > last or last <= self._last:
            raise ValueError(f"the ranges are not in order: {first} to {last} follows {self._last}")
        # Where two overlap (one of half a million does) the first keeps what it has.
        first = max(first, self._last + 1)
        leaf = self._leaves.get((number, holder))
        if leaf is None:
            content = {"autonomous_system_number": number, "autonomous_system_organization": holder}
            leaf = self._leaves[number, holder] = SearchTreeLeaf(content)
        start = first
        while start <= last:
            # The largest network that begins here and does not pass the end of the range.
            aligned = (start & -start).bit_length() - 1 if start else _BITS
            size = min(aligned, (last - start + 1).bit_length() - 1)
            self._put(start, _BITS - size, leaf)
            start += 1 << size
        self._last = last

    def _put(self, network: int, bits: int, leaf: SearchTreeLeaf) -> None:
        path = self._path
        # Steps that this network shares with the one before are already there.
        shared = min(_BITS - (network ^ self._last_bits).bit_length(), len(path) - 1, bits - 1)
        del path[shared + 1 :]
        node = path[shared]
        for depth in range(shared, bits - 1):
            below = SearchTreeNode()
            node[network >> (_BITS - 1 - depth) & 1] = below
            node = below
            path.append(node)
        node[network >> (_BITS - bits) & 1] = leaf
        self._last_bits = network
