# Jobs that outlive the process.
taca_test(test_job_record test_job_record.c LIBS taca_server LABEL server)
taca_test(test_disk test_disk.c faulty_disk.c LIBS taca_server PkgConfig::SQLITE LABEL server)
if(Python3_FOUND)
  taca_service_test(durable 60)
  if(TACA_SANITIZE)
    set_property(TEST durable APPEND PROPERTY ENVIRONMENT TACA_KILLS=10)
  endif()
endif()
