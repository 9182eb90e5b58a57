"""Searches for the top k: ours and its peers, what they search, and what is right."""
