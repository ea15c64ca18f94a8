target_sources(taca_engine PRIVATE)
