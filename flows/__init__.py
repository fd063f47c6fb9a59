"""Wiring only: a flow reads as a sentence."""
