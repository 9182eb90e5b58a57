"""Grades approximate indexes by the server's exact answers.

It needs what the extra `phoenix-client[judge]` installs; nothing else of the client imports it.
"""
