target_sources(taca_engine PRIVATE
  text/clip.c text/text.c text/text_cache.c
  text/tok_bpe.c text/tok_files.c text/tok_merge.c text/tok_norm.c)
