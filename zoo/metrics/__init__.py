"""Exact detection and localisation metrics: rank based, right for any score range."""
