target_sources(taca_engine PRIVATE
  verify/args.c verify/batch.c verify/autoencoder.c verify/checkpoint.c verify/compare.c verify/discover.c
  verify/model_set.c verify/lora_set.c verify/pipeline.c verify/sampling.c verify/text_case.c verify/transformer.c)
