target_sources(taca_engine PRIVATE vae/vae.c vae/vae_load.c vae/vae_net.c vae/preview.c vae/tae.c)
