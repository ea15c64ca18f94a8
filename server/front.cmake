# The front door's files.
target_sources(taca_server PRIVATE a1111.c access.c admin_routes.c access_key.c answer.c conns.c front.c generate.c head.c health.c
               http.c job_routes.c listener.c listener_bind.c listener_guest.c page.c peers.c reader.c
               routes.c rules.c stream.c systemd.c target.c trace.c watch.c)
include(${CMAKE_SOURCE_DIR}/web/sources.cmake)
target_link_libraries(taca_server PRIVATE taca_web)
