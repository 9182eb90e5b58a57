"""Load-test a running server: requests, open-loop arrivals, ghz, and results of calls."""
