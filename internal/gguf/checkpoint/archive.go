package checkpoint

import (
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/troupe-engine/troupe/internal/gguf"
)

// ArchiveArchitecture is the general.architecture of an archive: a model directory in one file. Its tensors have
// the names, and the rows in the order, of the safetensors they come from; the files that say what they mean are in
// the metadata as they were.
const ArchiveArchitecture = "troupe"

const (
	architectureKey = "general.architecture"
	archiveKey      = "troupe.file." // followed by the file's name
)

// ArchivedFiles are the files of a directory, beside its tensors, that an engine reads.
var ArchivedFiles = []string{"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
	"chat_template.jinja", "additional_chat_templates/tool_use.jinja"}

// archivedFileBytesMax bounds one of them. Tokenizers with the largest vocabularies have about 35 MB.
const archivedFileBytesMax = 256 << 20

func isArchive(f *gguf.File) bool {
	v, _ := f.Meta(architectureKey)
	arch, _ := v.Text()
	return arch == ArchiveArchitecture
}

// archived returns the files in an archive.
func archived(f *gguf.File) (map[string]text, error) {
	texts := map[string]text{}
	for _, name := range ArchivedFiles {
		v, ok := f.Meta(archiveKey + name)
		if !ok {
			continue
		}
		content, ok := v.Text()
		if !ok {
			return nil, fmt.Errorf("gguf: %s: metadata %q is %v, want a string with the file's content", f.Label(), archiveKey+name, v)
		}
		texts[name] = text{data: []byte(content)}
	}
	if _, ok := texts["config.json"]; !ok {
		return nil, fmt.Errorf("gguf: %s: metadata %q is missing, which a file of the architecture %q has: quantize the model again",
			f.Label(), archiveKey+"config.json", ArchiveArchitecture)
	}
	return texts, nil
}

// Archive returns the metadata that makes an archive of the model directory files.
func Archive(files fs.FS) ([]gguf.Pair, error) {
	meta := []gguf.Pair{{Key: architectureKey, Value: gguf.TextValue(ArchiveArchitecture)}}
	for _, name := range ArchivedFiles {
		content, err := readLimited(files, name)
		if errors.Is(err, fs.ErrNotExist) && name != "config.json" && name != "tokenizer.json" {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("reading %s: %w", name, err)
		}
		meta = append(meta, gguf.Pair{Key: archiveKey + name, Value: gguf.TextValue(string(content))})
	}
	return meta, nil
}

func readLimited(files fs.FS, name string) ([]byte, error) {
	f, err := files.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, archivedFileBytesMax+1))
	if err == nil && len(content) > archivedFileBytesMax {
		err = fmt.Errorf("it exceeds the limit of %d bytes", archivedFileBytesMax)
	}
	return content, err
}
