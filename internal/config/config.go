package config

import (
	"fmt"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/troupe-engine/troupe/schemas"
)

// EnvPrefix starts the names of environment variables.
const EnvPrefix = "TROUPE_"

const op = "configuration"

// Option is one field of an options struct.
type Option struct {
	Key     string // in YAML: kv_blocks
	Doc     string // one sentence
	Default string // as text; "" for zero strings
	value   reflect.Value
}

// Flag is the option's flag without dashes: kv-blocks.
func (o *Option) Flag() string { return strings.ReplaceAll(o.Key, "_", "-") }

// Env is the option's environment variable: TROUPE_KV_BLOCKS.
func (o *Option) Env() string { return EnvPrefix + strings.ToUpper(o.Key) }

// Options lists the fields of a struct that have a yaml tag, in order. target is a pointer to it; its
// values are the defaults. A field of a type that config does not know panics.
func Options(target any) []*Option {
	v := reflect.ValueOf(target).Elem()
	var list []*Option
	for i := range v.NumField() {
		key := v.Type().Field(i).Tag.Get("yaml")
		if key == "" {
			continue
		}
		o := &Option{Key: key, Doc: v.Type().Field(i).Tag.Get("doc"), value: v.Field(i)}
		o.Default = o.String()
		o.wanted() // panics for an unknown type
		list = append(list, o)
	}
	return list
}

// String implements pflag.Value.
func (o *Option) String() string {
	if !o.value.IsValid() {
		return ""
	}
	return fmt.Sprint(o.value.Interface())
}

var durationType = reflect.TypeFor[time.Duration]()

// Type implements pflag.Value: the word for the value in a flag's usage.
func (o *Option) Type() string {
	switch {
	case o.value.Type() == durationType:
		return "duration"
	case o.value.CanInt():
		return "int"
	}
	return o.value.Kind().String()
}

// wanted describes the values that Set takes.
func (o *Option) wanted() string {
	switch {
	case o.value.Type() == durationType:
		return "a duration such as 30s"
	case o.value.CanInt():
		return "an integer"
	case o.value.CanFloat():
		return "a number"
	case o.value.Kind() == reflect.Bool:
		return "true or false"
	case o.value.Kind() == reflect.String:
		return "a string"
	}
	panic(fmt.Sprintf("config: option %s has type %s", o.Key, o.value.Type()))
}

// Set implements pflag.Value: it reads text into the field, or leaves it as it is.
func (o *Option) Set(text string) error {
	bad := fmt.Errorf("%.80q; expected %s", text, o.wanted())
	switch {
	case o.value.Type() == durationType:
		d, err := time.ParseDuration(text)
		if err != nil {
			return bad
		}
		o.value.SetInt(int64(d))
	case o.value.CanInt():
		i, err := strconv.ParseInt(text, 0, o.value.Type().Bits())
		if err != nil {
			return bad
		}
		o.value.SetInt(i)
	case o.value.CanFloat():
		f, err := strconv.ParseFloat(text, o.value.Type().Bits())
		if err != nil {
			return bad
		}
		o.value.SetFloat(f)
	case o.value.Kind() == reflect.Bool:
		b, err := strconv.ParseBool(text)
		if err != nil {
			return bad
		}
		o.value.SetBool(b)
	default:
		o.value.SetString(text)
	}
	return nil
}

// Set is a struct of options with its flags.
type Set struct {
	options []*Option
	flags   *pflag.FlagSet
	given   map[string]string // flags on the command line, by key
}

// Bind adds a flag for every option of target to flags. Names that flags has already are left alone.
func Bind(flags *pflag.FlagSet, target any) *Set {
	s := &Set{options: Options(target), flags: flags, given: map[string]string{}}
	for _, o := range s.options {
		if flags.Lookup(o.Flag()) != nil {
			panic("config: flag --" + o.Flag() + " exists already")
		}
		f := flags.VarPF(flagValue{o, s.given}, o.Flag(), "", o.Doc)
		if o.Type() == "bool" {
			f.NoOptDefVal = "true"
		}
	}
	return s
}

// flagValue remembers what the command line says, for Load to repeat after the weaker sources.
type flagValue struct {
	*Option
	given map[string]string
}

func (v flagValue) Set(text string) error {
	if err := v.Option.Set(text); err != nil {
		return fmt.Errorf("it is %w", err)
	}
	v.given[v.Key] = text
	return nil
}

// Load reads the file, if its name is not "", and the environment ("NAME=value"), and puts the parsed flags
// on top. Variables that start with EnvPrefix and are neither an option nor in others are refused if they look
// like a misspelt option, and returned otherwise: an orchestrator may have set them for its own purposes.
func (s *Set) Load(file string, environ, others []string) (unknown []string, err error) {
	if file != "" {
		raw, err := readFile(file)
		if err != nil {
			return nil, err
		}
		if err := s.parseYAML(file, raw); err != nil {
			return nil, err
		}
	}
	if unknown, err = s.parseEnv(environ, others); err != nil {
		return nil, err
	}
	for _, o := range s.options {
		if text, given := s.given[o.Key]; given {
			if err := o.Set(text); err != nil {
				return nil, refuse(o.Key, "--%s is %v", o.Flag(), err)
			}
		}
	}
	return unknown, nil
}

func (s *Set) option(key string) *Option {
	for _, o := range s.options {
		if o.Key == key {
			return o
		}
	}
	return nil
}

func (s *Set) parseEnv(environ, others []string) (unknown []string, err error) {
	var names []string
	for _, o := range s.options {
		names = append(names, o.Env())
	}
	for _, entry := range environ {
		name, text, _ := strings.Cut(entry, "=")
		if !strings.HasPrefix(name, EnvPrefix) || slices.Contains(others, name) {
			continue
		}
		o := s.option(strings.ToLower(strings.TrimPrefix(name, EnvPrefix)))
		if o == nil || o.Env() != name {
			if near := Nearest(name, names); near != "" {
				return nil, refuse(name, "the environment variable %.80s is not an option", name).WithHint("did you mean %s?", near)
			}
			unknown = append(unknown, name)
			continue
		}
		if err := o.Set(text); err != nil {
			return nil, refuse(o.Key, "the environment variable %s is %v", name, err)
		}
	}
	slices.Sort(unknown)
	return unknown, nil
}

func refuse(key, format string, args ...any) *schemas.Error {
	return schemas.Errorf(schemas.KindInvalid, op, format, args...).WithParam(key)
}

func readFile(name string) ([]byte, error) {
	info, err := os.Stat(name)
	if err == nil && (info.IsDir() || info.Size() > FileBytesMax) {
		return nil, refuse("config", "%s is a directory or larger than %d bytes; expected a YAML file", name, FileBytesMax)
	}
	raw, err := os.ReadFile(name)
	if err != nil {
		return nil, refuse("config", "%v", err).WithHint("--config takes a YAML file; `troupe serve --help` lists its keys")
	}
	return raw, nil
}
