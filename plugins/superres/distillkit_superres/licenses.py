"""SPDX identifiers of the licenses of published weights."""

from __future__ import annotations

APACHE = "Apache-2.0"
OPENRAIL = "openrail++"
OSEDIFF_LICENSE = f"{APACHE} AND {OPENRAIL}"
S_LAB = "LicenseRef-S-Lab-1.0-NonCommercial"
CC_BY_NC_SA = "CC-BY-NC-SA-4.0"
