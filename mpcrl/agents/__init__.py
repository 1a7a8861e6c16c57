"""Agents learn a model of a task while they control it."""
