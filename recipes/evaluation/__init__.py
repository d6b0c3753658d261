"""How codecs, learned codecs and coders are measured: evaluate_codec, learned_codec, train_codec, evaluate_coders."""
