target_sources(taca_engine PRIVATE sample/noise.c sample/schedule.c sample/taca.c)
