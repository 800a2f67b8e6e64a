package defaultmodel

import (
	"embed"
	"io/fs"
)

// Name is the model's name in the API and the folder that holds its files.
const Name = "troupe-tiny"

// FS holds the model's files, in Hugging Face's layout, in the folder [Name]:
// config.json, generation_config.json, model.safetensors, tokenizer.json,
// tokenizer_config.json and MODEL_CARD.md.
//
//go:embed troupe-tiny
var FS embed.FS

// Files returns the model's folder itself: Files().Open("config.json").
func Files() fs.FS {
	files, err := fs.Sub(FS, Name)
	if err != nil {
		panic("defaultmodel: " + err.Error()) // Name is a valid path, so fs.Sub cannot fail
	}
	return files
}
