target_sources(taca_engine PRIVATE dit/block.c dit/sd3.c dit/sd3_open.c)
