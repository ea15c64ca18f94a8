target_sources(taca_engine PRIVATE sample/levels.c sample/noise.c sample/philox.c sample/sampler.c sample/schedule.c
                                   sample/taca.c)
