# Jobs that outlive the process.
taca_test(test_job_record test_job_record.c LIBS taca_server LABEL server)
taca_test(test_disk test_disk.c faulty_disk.c LIBS taca_server PkgConfig::SQLITE LABEL server)
if(Python3_FOUND)
  add_test(NAME durable COMMAND Python3::Interpreter -B ${CMAKE_CURRENT_SOURCE_DIR}/durable_test.py
                                $<TARGET_FILE:taca_fake>)
  set_tests_properties(durable PROPERTIES LABELS server TIMEOUT 300 COST 60)
  if(TACA_SANITIZE)
    set_tests_properties(durable PROPERTIES ENVIRONMENT "TACA_PATIENCE=3;TACA_KILLS=10" TIMEOUT 600)
  endif()
endif()
