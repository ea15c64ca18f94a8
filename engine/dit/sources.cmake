target_sources(taca_engine PRIVATE dit/adapted.c dit/adapter.c dit/block.c dit/forward.c dit/modules.c dit/places.c dit/open.c dit/load.c dit/sd3_open.c
  dit/flux_open.c)
