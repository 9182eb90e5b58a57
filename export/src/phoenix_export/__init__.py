"""Turn a Phoenix checkpoint into portable compiled programs."""
