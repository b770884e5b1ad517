"""Estimates for people and for other programs: table, JSON, CSV."""
