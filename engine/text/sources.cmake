target_sources(taca_engine PRIVATE text/tok_bpe.c text/tok_files.c text/tok_merge.c text/tok_norm.c)
