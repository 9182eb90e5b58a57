"""Load on a running server: requests, open-loop arrivals, ghz, and what became of the calls."""
