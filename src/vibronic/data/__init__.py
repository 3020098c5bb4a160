"""Labelled sets in and out: reading, checking, splitting and batching structures; named sources."""
