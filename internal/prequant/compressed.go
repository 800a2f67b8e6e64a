package prequant

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// compressedFormats are the formats of compressed-tensors that are read, and the types of weights in them.
var compressedFormats = map[string][]string{
	"float-quantized": {"float"}, "int-quantized": {"int"}, "naive-quantized": {"float", "int"}, "pack-quantized": {"int"},
}

// parseCompressed reads what compressed-tensors writes: groups of modules, each with a scheme.
func parseCompressed(c *Config, f fields) error {
	var format string
	groups := map[string]json.RawMessage{}
	err := errors.Join(f.read("format", &format, "a string"), f.read("config_groups", &groups, "an object"), refuseTransforms(f))
	switch {
	case err != nil:
		return err
	case format == "dense": // quantized in name only: the weights are stored as they are
		return nil
	case len(groups) == 0 || len(groups) > GroupsMax:
		return fmt.Errorf("config_groups has %d entries, want 1 to %d", len(groups), GroupsMax)
	}
	c.Method += " " + format
	for _, name := range slices.Sorted(maps.Keys(groups)) {
		g := fields{path: "config_groups." + clip(name) + "."}
		if json.Unmarshal(groups[name], &g.values) != nil {
			return f.wrong("config_groups", "an object of objects")
		}
		if !g.has("weights") { // it is about activations
			continue
		}
		s, err := parseGroup(g, format)
		if err != nil {
			return err
		}
		c.schemes = append(c.schemes, *s)
	}
	return nil
}

// refuseTransforms is an error if weights mean something else than their values.
func refuseTransforms(f fields) error {
	var sparsity struct{ Format string }
	var transforms map[string]json.RawMessage
	if err := errors.Join(f.read("sparsity_config", &sparsity, "an object"), f.read("transform_config", &transforms, "an object")); err != nil {
		return err
	}
	if sparsity.Format != "" && sparsity.Format != "dense" {
		return fmt.Errorf("sparsity_config.format is %q; supported: dense", clip(sparsity.Format))
	}
	for key, raw := range transforms {
		if key == "config_groups" && string(raw) != "{}" && string(raw) != "null" {
			return errors.New("transform_config is set: rotated weights are not supported")
		}
	}
	return nil
}

// parseGroup reads one of config_groups.
func parseGroup(g fields, format string) (*scheme, error) {
	targets := []string{"Linear"}
	w := fields{path: g.path + "weights."}
	if json.Unmarshal(g.values["weights"], &w.values) != nil {
		return nil, g.wrong("weights", "an object")
	}
	s := &scheme{}
	kind, symmetric := "int", true
	err := errors.Join(g.read("format", &format, "a string"), g.read("targets", &targets, "a list of strings"),
		w.read("type", &kind, "a string"), w.read("num_bits", &s.bits, "a whole number"), w.read("symmetric", &symmetric, "true or false"))
	if err == nil {
		err = s.targets.add(g.path+"targets", targets)
	}
	if err != nil {
		return nil, err
	}
	kinds, ok := compressedFormats[format]
	bits := []int{8}
	switch {
	case !ok:
		return nil, fmt.Errorf("%sformat is %q; supported: %s", g.path, clip(format), strings.Join(slices.Sorted(maps.Keys(compressedFormats)), ", "))
	case !slices.Contains(kinds, kind):
		return nil, fmt.Errorf("%stype is %q, want %s with the format %s", w.path, clip(kind), strings.Join(kinds, " or "), format)
	case format == "pack-quantized":
		s.layout, bits = layoutPacked, []int{4, 8}
	case kind == "int": // fewer bits are stored in a byte each too
		s.layout, bits = layoutBytes, []int{2, 3, 4, 5, 6, 7, 8}
	}
	if !slices.Contains(bits, s.bits) {
		return nil, fmt.Errorf("%snum_bits is %d; supported with %s: %v", w.path, s.bits, format, bits)
	}
	if s.layout == layoutFloats && !symmetric {
		return nil, fmt.Errorf("%ssymmetric is false, want true with 8-bit floats", w.path)
	}
	if s.layout == layoutBytes {
		s.bits = 8
	}
	s.zeros = !symmetric
	if err := s.readStrategy(w); err != nil {
		return nil, err
	}
	if s.block[0] > 0 && s.layout != layoutFloats {
		return nil, fmt.Errorf("%sstrategy is block; supported with integers: tensor, channel, group", w.path)
	}
	return s, nil
}

// readStrategy reads what shares a scale.
func (s *scheme) readStrategy(w fields) error {
	strategy, order, dynamic := "", "", false
	if err := errors.Join(w.read("strategy", &strategy, "a string"), w.read("dynamic", &dynamic, "true or false")); err != nil {
		return err
	}
	if w.has("actorder") && json.Unmarshal(w.values["actorder"], &order) != nil { // true is the older spelling of group
		if err := w.read("actorder", &s.ordered, "a string or true or false"); err != nil {
			return err
		}
	}
	s.ordered = s.ordered || order == "group"
	if dynamic {
		return fmt.Errorf("%sdynamic is true: weights whose scales are not stored cannot be read", w.path)
	}
	if strategy == "" {
		strategy = "tensor"
		if w.has("group_size") {
			strategy = "group"
		}
	}
	var err error
	switch strategy {
	case "tensor", "channel":
	case "group":
		s.group, err = w.groupSize("group_size")
	case "block":
		var block []int
		if err = w.read("block_structure", &block, "two whole numbers"); err != nil {
			return err
		}
		if len(block) != 2 || !inBlock(block[0]) || !inBlock(block[1]) {
			return w.wrong("block_structure", fmt.Sprintf("two whole numbers in 1..%d", BlockMax))
		}
		s.block = [2]int(block)
	default:
		return fmt.Errorf("%sstrategy is %q; supported: tensor, channel, group, block", w.path, clip(strategy))
	}
	return err
}
