package tokenizers

func loadPrecompiled(o object) (normalizer, error) {
	return nil, o.at("type").errorf("normalizer \"Precompiled\" is not supported")
}
