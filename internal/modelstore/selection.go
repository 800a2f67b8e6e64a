package modelstore

import (
	"fmt"
	"path"
	"strings"

	"github.com/troupe-engine/troupe/internal/modelstore/hub"
	"github.com/troupe-engine/troupe/schemas"
)

// What an engine needs of a model, at the root of its files. Weights in other formats, other frameworks' copies
// and folders of extras are left out.
var (
	neededGlobs = []string{"*.json", "*.jinja", "*.model", "*.tiktoken", "vocab.txt", "merges.txt"}
	unneeded    = []string{"*.bin.index.json", "*.h5.index.json", "*.msgpack.index.json", "adapter_config.json", "trainer_state.json", "training_args.json"}
)

// checkGlobs refuses malformed patterns.
func checkGlobs(flag string, globs []string) error {
	for _, g := range globs {
		if _, err := path.Match(g, ""); err != nil || g == "" {
			return schemas.Errorf(schemas.KindInvalid, "pull", "%s: %q is no pattern", flag, clip(g)).WithParam(flag).
				WithHint("patterns are as in a shell: * ? [a-z]; without a slash they also match a file's last element")
		}
	}
	return nil
}

// matches says whether a pattern matches the path, its last element, or a folder it is in.
func matches(globs []string, file string) bool {
	for _, g := range globs {
		whole := file
		if !strings.Contains(g, "/") {
			whole = path.Base(file)
		}
		if ok, _ := path.Match(g, whole); ok || strings.HasPrefix(file, strings.TrimSuffix(g, "/")+"/") {
			return true
		}
	}
	return false
}

// choose picks the entries to pull. Include replaces the default choice; exclude is taken from either.
func choose(id string, entries []hub.Entry, include, exclude []string) ([]hub.Entry, error) {
	var files, chosen []hub.Entry
	for _, e := range entries {
		if err := checkListed(e.Path); err != nil {
			return nil, err
		}
		if e.Type != "directory" && !matches(exclude, e.Path) {
			files = append(files, e)
		}
	}
	if len(include) == 0 {
		return needed(id, files)
	}
	for _, e := range files {
		if matches(include, e.Path) {
			chosen = append(chosen, e)
		}
	}
	if len(chosen) == 0 {
		return nil, schemas.Errorf(schemas.KindNotFound, "pull", "%s has no file that --include asks for; it has %s", id, some(files)).
			WithParam("include").WithHint("check the patterns of --include and --exclude")
	}
	return chosen, nil
}

// needed is the default choice.
func needed(id string, files []hub.Entry) ([]hub.Entry, error) {
	// model.safetensors or its shards are what the engine opens. Other names beside them hold the same weights in
	// another layout (consolidated.safetensors) or precision.
	standard := false
	for _, e := range files {
		standard = standard || isModelWeights(e.Path)
	}
	var chosen []hub.Entry
	weights := false
	for _, e := range files {
		isTensors := strings.HasSuffix(e.Path, ".safetensors") && (isModelWeights(e.Path) || !standard)
		if strings.Contains(e.Path, "/") || !isTensors && (!matches(neededGlobs, e.Path) || matches(unneeded, e.Path)) {
			continue
		}
		weights = weights || isTensors
		chosen = append(chosen, e)
	}
	if !weights {
		return nil, schemas.Errorf(schemas.KindUnsupported, "pull", "%s has no *.safetensors, which is what the engine reads; it has %s", id, some(files)).
			WithHint("name other files with --include, such as --include '*.gguf', or pull a converted copy of the model")
	}
	return chosen, nil
}

func isModelWeights(p string) bool {
	if p == "model.safetensors" {
		return true
	}
	ok, _ := path.Match("model-*-of-*.safetensors", p)
	return ok
}

// some names a few files.
func some(files []hub.Entry) string {
	const namesMax = 8
	var names []string
	for i, e := range files {
		if i == namesMax {
			names = append(names, fmt.Sprintf("and %d more", len(files)-i))
			break
		}
		names = append(names, fmt.Sprintf("%q", clip(e.Path)))
	}
	if names == nil {
		return "no files"
	}
	return strings.Join(names, ", ")
}
