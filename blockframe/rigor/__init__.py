"""Proofs by rounded arithmetic about plain matrices; nothing here knows a network.

``exact`` is plain Python and ``rank`` needs numpy alone, so that a checker can import both.
"""
