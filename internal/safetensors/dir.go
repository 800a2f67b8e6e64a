package safetensors

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
)

// The names a checkpoint directory uses.
const (
	singleName = "model.safetensors"
	indexName  = "model.safetensors.index.json"
)

// Limits on what an index may claim.
const (
	// IndexBytesMax bounds model.safetensors.index.json.
	IndexBytesMax = 64 << 20
	// ShardsMax bounds the files of one checkpoint.
	ShardsMax = 4096
)

// OpenDir opens the checkpoint in fsys: the shards of model.safetensors.index.json where that
// exists, otherwise model.safetensors.
func OpenDir(fsys fs.FS) (*File, error) {
	index, err := readIndex(fsys)
	if errors.Is(err, fs.ErrNotExist) {
		f, err := OpenFS(fsys, singleName)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("safetensors: the directory has neither %s nor %s; a model needs one of them: %w", singleName, indexName, err)
		}
		return f, err
	}
	if err != nil {
		return nil, err
	}
	return openShards(fsys, index)
}

// readIndex returns the index's map from tensor to file, with every file name checked.
func readIndex(fsys fs.FS) (map[string]string, error) {
	file, err := fsys.Open(indexName)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, IndexBytesMax+1))
	if err != nil {
		return nil, fmt.Errorf("safetensors: reading %s: %w", indexName, err)
	}
	if len(data) > IndexBytesMax {
		return nil, fmt.Errorf("safetensors: %s exceeds the limit of %d bytes", indexName, IndexBytesMax)
	}
	var index struct {
		WeightMap map[string]string `json:"weight_map"`
	}
	if err := json.Unmarshal(data, &index); err != nil {
		return nil, notJSON("safetensors: "+indexName, err)
	}
	if len(index.WeightMap) == 0 {
		return nil, fmt.Errorf("safetensors: %s: weight_map is missing or empty", indexName)
	}
	for tensor, shard := range index.WeightMap {
		if err := checkShardName(shard); err != nil {
			return nil, fmt.Errorf("safetensors: %s: weight_map[%q]: %w", indexName, clip(tensor), err)
		}
	}
	return index.WeightMap, nil
}

// checkShardName allows only plain file names, so that an index cannot reach outside its folder.
func checkShardName(name string) error {
	const nameBytesMax = 255
	if len(name) > nameBytesMax || !fs.ValidPath(name) || strings.ContainsAny(name, "/\\:") || !strings.HasSuffix(name, ".safetensors") {
		return fmt.Errorf("%q is not the name of a .safetensors file in the same directory", clip(name))
	}
	return nil
}

// openShards opens every file of the index once and gathers the tensors it promises.
func openShards(fsys fs.FS, index map[string]string) (*File, error) {
	var shards []string
	for _, shard := range index {
		shards = append(shards, shard)
	}
	slices.Sort(shards)
	shards = slices.Compact(shards)
	if len(shards) > ShardsMax {
		return nil, fmt.Errorf("safetensors: %s names %d files, the limit is %d", indexName, len(shards), ShardsMax)
	}
	all := newFile(indexName)
	for _, shard := range shards {
		f, err := OpenFS(fsys, shard)
		if err != nil {
			return nil, withClose(fmt.Errorf("%s names a shard that cannot be opened: %w", indexName, err), all.Close)
		}
		all.closers = append(all.closers, f.closers...)
		for _, name := range f.names {
			if index[name] == shard {
				all.add(shard, name, f.tensors[name])
			}
		}
	}
	for name, shard := range index {
		if _, ok := all.tensors[name]; !ok {
			return nil, withClose(fmt.Errorf("safetensors: %s says %s holds tensor %q, but it does not: download the checkpoint again", indexName, shard, clip(name)), all.Close)
		}
	}
	return all, nil
}
