"""Licenses of published weights."""

from __future__ import annotations

UNLICENSED = "NONE"
"""SPDX: the authors publish no license.

Their weights may be used as their authors allow, and are never part of this plugin.
"""
