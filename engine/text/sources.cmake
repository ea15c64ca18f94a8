target_sources(taca_engine PRIVATE
  text/clip.c text/t5.c text/table.c text/text.c text/text_cache.c
  text/text_open.c text/text_sd3.c text/text_flux.c
  text/tok_bpe.c text/tok_dir.c text/tok_files.c text/tok_merge.c text/tok_norm.c
  text/tok_t5.c text/tok_t5_files.c text/tok_spiece.c text/tok_uni.c text/tok_charsmap.c)
