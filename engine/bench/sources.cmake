target_sources(taca_engine PRIVATE bench/measure.c bench/ops.c bench/models.c)
