target_sources(taca_engine PRIVATE sample/taca.c)
