"""Each study reproduces one claim of a paper."""
