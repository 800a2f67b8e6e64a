package config

import (
	"bytes"
	"errors"
	"io"
	"reflect"
	"strings"

	"go.yaml.in/yaml/v3"
)

// FileBytesMax bounds a configuration file.
const FileBytesMax = 1 << 20

// parseYAML sets the options that a file names. Errors say file and line.
func (s *Set) parseYAML(file string, raw []byte) error {
	decoder := yaml.NewDecoder(bytes.NewReader(raw))
	var doc yaml.Node
	if err := decoder.Decode(&doc); errors.Is(err, io.EOF) {
		return nil // an empty file changes nothing
	} else if err != nil {
		return refuse("config", "%s: %s", file, strings.TrimPrefix(err.Error(), "yaml: "))
	}
	if err := decoder.Decode(&yaml.Node{}); !errors.Is(err, io.EOF) {
		return refuse("config", "%s: more follows after the first YAML document; expected one", file)
	}
	top := &doc
	if top.Kind == yaml.DocumentNode && len(top.Content) > 0 {
		top = top.Content[0]
	}
	if top.Kind == yaml.ScalarNode && top.Tag == "!!null" {
		return nil // comments only
	}
	if top.Kind != yaml.MappingNode {
		return refuse("config", "%s:%d: found %s; expected `key: value` lines", file, top.Line, kindOf(top))
	}
	seen := map[string]int{}
	for i := 0; i+1 < len(top.Content); i += 2 {
		key, value := top.Content[i], top.Content[i+1]
		if first, twice := seen[key.Value]; twice {
			return refuse(key.Value, "%s:%d: %.64s is set already in line %d", file, key.Line, key.Value, first)
		}
		seen[key.Value] = key.Line
		if err := s.setNode(file, key, value); err != nil {
			return err
		}
	}
	return nil
}

func (s *Set) setNode(file string, key, value *yaml.Node) error {
	o := s.option(key.Value)
	if o == nil || key.Kind != yaml.ScalarNode {
		err := refuse(key.Value, "%s:%d: %.64q is not an option", file, key.Line, key.Value)
		var names []string
		for _, o := range s.options {
			names = append(names, o.Key)
		}
		if near := Nearest(strings.ToLower(strings.ReplaceAll(key.Value, "-", "_")), names); near != "" {
			return err.WithHint("did you mean %s?", near)
		}
		return err.WithHint("`troupe serve --help` lists the options")
	}
	if value.Kind == yaml.AliasNode && value.Alias != nil {
		value = value.Alias
	}
	if value.Kind != yaml.ScalarNode || value.Tag == "!!null" || !fits(o, value.Tag) {
		return refuse(o.Key, "%s:%d: %s is %s; expected %s", file, value.Line, o.Key, kindOf(value), o.wanted())
	}
	if err := o.Set(value.Value); err != nil {
		return refuse(o.Key, "%s:%d: %s is %v", file, value.Line, o.Key, err)
	}
	return nil
}

// fits reports whether a scalar of a YAML type can be an option's value; that its text is one, Set finds.
func fits(o *Option, tag string) bool {
	switch {
	case o.value.Kind() == reflect.String:
		return tag != "!!binary" // an unquoted number is a fine name
	case o.value.Kind() == reflect.Bool:
		return tag == "!!bool"
	case o.value.Type() == durationType:
		return tag == "!!str"
	case o.value.CanFloat():
		return tag == "!!int" || tag == "!!float"
	}
	return tag == "!!int"
}

func kindOf(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	case yaml.AliasNode:
		return "an alias"
	}
	if n.Tag == "!!null" {
		return "empty"
	}
	text := n.Value
	if len(text) > 64 {
		text = strings.ToValidUTF8(text[:64], "") + "…"
	}
	if n.Tag == "!!str" {
		return "the string \"" + text + "\""
	}
	return text
}
