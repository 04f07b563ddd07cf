"""Callbacks: the common metrics, image panels, prediction writer."""
