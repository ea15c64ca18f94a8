target_sources(taca_engine PRIVATE
  io/blocks.c io/checkpoint.c io/convert.c io/data_dir.c io/derive.c io/file.c io/files.c io/gguf.c
  io/json.c io/layout.c io/layout_tables.c
  io/lora.c io/lora_alpha.c io/lora_keys.c io/lora_names.c io/model_dir.c io/model_parts.c
  io/random.c io/safetensors.c io/summary.c
  io/storage.c io/views.c io/write.c)
# Loading a quantised model is these loops: they are worth vectors.
set_source_files_properties(io/blocks.c PROPERTIES COMPILE_OPTIONS $<$<NOT:$<CONFIG:Debug>>:-O3>)
