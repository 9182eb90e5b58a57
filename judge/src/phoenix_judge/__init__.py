"""Grade approximate indexes by the server's exact answers.

The libraries of the indexes, and matplotlib, are extras: `faiss`, `scann`, `plot`.
"""
