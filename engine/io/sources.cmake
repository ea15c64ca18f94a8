target_sources(taca_engine PRIVATE
  io/checkpoint.c io/file.c io/files.c io/json.c io/safetensors.c)
