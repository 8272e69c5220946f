# Every map, one name per line: csrc/maps/<name>.hpp holds it. The order is the catalog's.
set(FASTMAP_MAPS
    Identity
    Affine
    Log
    OneMinusLog
    Softplus
    Interval
    Tanh
    Asinh
    SymLog
)
