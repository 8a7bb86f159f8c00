"""The hand-over: live connections move from one worker of a host to another, and their clients notice nothing."""
