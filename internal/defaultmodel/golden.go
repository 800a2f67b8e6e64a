package defaultmodel

import (
	"embed"
	"io/fs"
)

//go:embed testdata/golden.json testdata/golden.safetensors
var golden embed.FS

// Golden returns what Hugging Face transformers computes with the model, for `troupe verify`: golden.json
// and golden.safetensors.
func Golden() fs.FS {
	files, err := fs.Sub(golden, "testdata")
	if err != nil {
		panic("defaultmodel: " + err.Error()) // the path is valid, so fs.Sub cannot fail
	}
	return files
}
