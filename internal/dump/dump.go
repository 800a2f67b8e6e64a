// Package dump writes down a value and everything that it points to, for tests that must notice any change.
package dump

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// Of describes v. Values are equal, unexported fields and cycles included, if and only if their descriptions are, but for
// functions and channels, of which only the presence is told.
func Of(v any) string {
	d := &dumper{seen: map[uintptr]int{}}
	d.value(reflect.ValueOf(v))
	return d.out.String()
}

type dumper struct {
	out  strings.Builder
	seen map[uintptr]int // pointers, in the order in which they were met
}

func (d *dumper) value(v reflect.Value) {
	switch v.Kind() {
	case reflect.Invalid:
		d.out.WriteString("nil")
	case reflect.Pointer:
		if v.IsNil() {
			d.out.WriteString("nil")
			return
		}
		number, met := d.seen[v.Pointer()]
		if !met {
			number = len(d.seen)
			d.seen[v.Pointer()] = number
		}
		fmt.Fprintf(&d.out, "&%d", number)
		if !met {
			d.value(v.Elem())
		}
	case reflect.Interface:
		if !v.IsNil() {
			d.out.WriteString(v.Elem().Type().String())
		}
		d.value(v.Elem())
	case reflect.Struct:
		d.out.WriteByte('{')
		for i := range v.NumField() {
			d.out.WriteString(v.Type().Field(i).Name + ":")
			d.value(v.Field(i))
			d.out.WriteByte(' ')
		}
		d.out.WriteByte('}')
	case reflect.Slice, reflect.Array:
		d.out.WriteByte('[')
		for i := range v.Len() {
			d.value(v.Index(i))
			d.out.WriteByte(' ')
		}
		d.out.WriteByte(']')
	case reflect.Map:
		keys := v.MapKeys()
		slices.SortFunc(keys, func(a, b reflect.Value) int { return strings.Compare(plain(a), plain(b)) })
		d.out.WriteString("map[")
		for _, k := range keys {
			d.value(k)
			d.out.WriteByte(':')
			d.value(v.MapIndex(k))
			d.out.WriteByte(' ')
		}
		d.out.WriteByte(']')
	case reflect.Func, reflect.Chan, reflect.UnsafePointer:
		fmt.Fprintf(&d.out, "%s(%v)", v.Kind(), !v.IsZero())
	default:
		d.out.WriteString(plain(v))
	}
}

// plain writes a value without pointers.
func plain(v reflect.Value) string { return fmt.Sprintf("%v", v) }
