package schemas

import (
	"encoding/json"
	"reflect"
	"sync"

	"github.com/invopop/jsonschema"
)

var schemaCache sync.Map // reflect.Type -> string

// JSONSchemaOf returns T's JSON Schema (draft 2020-12) as one line.
func JSONSchemaOf[T any]() string { return JSONSchema(reflect.TypeFor[T]()) }

// JSONSchema returns the JSON Schema (draft 2020-12) of a message type as one line.
func JSONSchema(t reflect.Type) string {
	if s, ok := schemaCache.Load(t); ok {
		return s.(string)
	}
	r := jsonschema.Reflector{Anonymous: true, ExpandedStruct: true, Mapper: columnSchema}
	b, err := json.Marshal(r.ReflectFromType(t))
	if err != nil {
		panic("schemas: JSON schema of " + t.String() + ": " + err.Error())
	}
	s, _ := schemaCache.LoadOrStore(t, string(b))
	return s.(string)
}

// columnSchema describes the types that write their own JSON.
func columnSchema(t reflect.Type) *jsonschema.Schema {
	hex := &jsonschema.Schema{Type: "string", Pattern: "^[0-9a-f]{16}$"}
	switch t {
	case reflect.TypeFor[RequestID](), reflect.TypeFor[SeqID]():
		return hex
	case reflect.TypeFor[U64]():
		return &jsonschema.Schema{Type: "array", Items: hex}
	case reflect.TypeFor[I32](), reflect.TypeFor[U8]():
		return &jsonschema.Schema{Type: "array", Items: &jsonschema.Schema{Type: "integer"}}
	case reflect.TypeFor[F32]():
		return &jsonschema.Schema{Type: "array", Items: &jsonschema.Schema{Type: "number"}}
	case reflect.TypeFor[json.RawMessage]():
		return &jsonschema.Schema{Description: "any JSON value"}
	}
	return nil
}
