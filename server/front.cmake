# The front door's files.
target_sources(taca_server PRIVATE answer.c conns.c front.c generate.c head.c health.c http.c
               listener.c listener_bind.c listener_guest.c routes.c stream.c watch.c)
