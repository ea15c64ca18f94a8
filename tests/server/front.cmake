# The front door's side: the pure parts, then raw sockets against it with a make-believe service.
taca_test(test_head test_head.c LIBS taca_server LABEL server)
taca_test(test_stream test_stream.c LIBS taca_server LABEL server)
taca_test(test_target test_target.c LIBS taca_server LABEL server)
taca_test(test_peers test_peers.c LIBS taca_server LABEL server)
taca_test(test_listener test_listener.c LIBS taca_server LABEL server)

add_executable(front_main front_main.c)
target_link_libraries(front_main PRIVATE taca_server PkgConfig::UV)
if(Python3_FOUND)
  add_test(NAME front COMMAND Python3::Interpreter -B ${CMAKE_CURRENT_SOURCE_DIR}/test_front.py
                              $<TARGET_FILE:front_main> $<TARGET_FILE:taca>)
  add_test(NAME front_limits COMMAND Python3::Interpreter -B
                              ${CMAKE_CURRENT_SOURCE_DIR}/test_front_limits.py $<TARGET_FILE:front_main>)
  set_tests_properties(front front_limits PROPERTIES LABELS server TIMEOUT 300 COST 30)
  if(TACA_SANITIZE)
    set_tests_properties(front front_limits PROPERTIES ENVIRONMENT TACA_PATIENCE=5)
  endif()
endif()
