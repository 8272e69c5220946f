"""fastmap: search a parameter space that is easier to search, at memory speed.

Under construction: `fastmap._core` (the native engine) is complete enough to be tested; the public
functions of the package stand on it and are not written yet.
"""
