target_sources(taca_engine PRIVATE
  io/checkpoint.c io/file.c io/files.c io/json.c io/model_dir.c io/safetensors.c io/summary.c
  io/write.c)
