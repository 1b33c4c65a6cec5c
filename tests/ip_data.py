"""Small IP data files with true facts about a few known networks, in the form of the freely licensed ones."""

from pathlib import Path

from mmdb_writer import MMDBWriter
from netaddr import IPSet

# Network, number and registered holder, as published in 2026.
NETWORKS = [
    ("172.56.0.0/14", 21928, "T-Mobile USA, Inc."),
    ("2607:fb90::/32", 21928, "T-Mobile USA, Inc."),
    ("73.0.0.0/8", 7922, "Comcast Cable Communications, LLC"),
    ("2601::/20", 7922, "Comcast Cable Communications, LLC"),
    ("108.32.0.0/13", 701, "Verizon Business"),
    ("40.92.0.0/15", 8075, "Microsoft Corporation"),
    ("3.208.0.0/12", 14618, "Amazon.com, Inc."),
    ("148.163.128.0/19", 22843, "Proofpoint, Inc."),
    ("8.8.8.0/24", 15169, "Google LLC"),
]
# Network, country, region, city: approximate, as such data are.
PLACES = [
    ("172.56.0.0/14", "US", "New York", "Albany"),
    ("73.0.0.0/8", "US", "Pennsylvania", "Philadelphia"),
    ("108.32.0.0/13", "US", "New Jersey", "Newark"),
    ("40.92.0.0/15", "US", "Virginia", "Boydton"),
    ("3.208.0.0/12", "US", "Virginia", "Ashburn"),
]
PLACES_V6 = [("2607:fb90::/32", "US", "Washington", "Seattle"), ("2601::/20", "US", "Pennsylvania", "Philadelphia")]


def write_ip_data(folder: Path) -> None:
    """Writes an ASN file and the two city files into a folder."""
    numbers = MMDBWriter(6, "OpenNotice-GeoLite2-ASN", ipv4_compatible=True, int_type="u32")
    for network, number, holder in NETWORKS:
        record = {"autonomous_system_number": number, "autonomous_system_organization": holder}
        numbers.insert_network(IPSet([network]), record)
    numbers.to_db_file(str(folder / "asn.mmdb"))
    for version, places in ((4, PLACES), (6, PLACES_V6)):
        cities = MMDBWriter(version, f"dbip-city-ipv{version}")
        for network, country, region, city in places:
            record = {"country_code": country, "state1": region, "state2": "", "city": city, "postcode": ""}
            cities.insert_network(IPSet([network]), record)
        cities.to_db_file(str(folder / f"dbip-city-ipv{version}.mmdb"))
