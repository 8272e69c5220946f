# Every structured map, one name per line: csrc/structured/<name>.hpp holds it. The order is the catalog's.
set(FASTMAP_STRUCTURED
    Simplex
    StickBreaking
    Ordered
    PositiveOrdered
    SumToZero
    UnitVector
    CholeskyFactor
    CorrelationCholesky
    PositiveDefinite)
