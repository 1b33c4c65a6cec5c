"""Small IP data files with true facts about a few known networks, in the form of the freely licensed ones."""

from pathlib import Path

from tests.enrichment.ip_data import asn_record, city_record, write

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
    numbers = {network: asn_record(number, holder) for network, number, holder in NETWORKS}
    write(folder / "asn.mmdb", "OpenNotice-GeoLite2-ASN", numbers)
    for version, places in ((4, PLACES), (6, PLACES_V6)):
        cities = {network: city_record(country, region, city) for network, country, region, city in places}
        write(folder / f"dbip-city-ipv{version}.mmdb", f"dbip-city-ipv{version}", cities, version=version)
