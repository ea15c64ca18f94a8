# The loop's files.
target_sources(taca_server PRIVATE
  disk.c disk_db.c disk_files.c encode.c fleet.c job_record.c jobs.c jobs_a1111.c jobs_ask.c jobs_disk.c
  jobs_line.c jobs_next.c jobs_quota.c jobs_readers.c jobs_reply.c jobs_steps.c loader.c loop.c metrics.c
  metrics_device.c metrics_http.c metrics_key.c metrics_process.c models.c pool.c pressure.c quota.c
  sched.c sched_admit.c sched_cost.c sched_eta.c sched_fair.c serve_options.c sha256.c store.c wire.c worker.c
  worker_calibrate.c worker_loras.c worker_memory.c)
