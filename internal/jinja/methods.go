package jinja

import (
	"fmt"
	"math"
)

// A method is a pure function of its receiver and arguments. Methods that modify
// their receiver, such as list.append, do not exist here, as in an immutable sandbox.
type method func(e *evaluator, recv any, a callArgs) (any, error)

var dictMethods, listMethods, tupleMethods, floatMethods map[string]method

func init() { // the tables refer to functions that refer to the tables
	dictMethods = map[string]method{
		"get": dictGet, "items": dictView, "keys": dictKeys, "values": dictValues, "copy": copySelf,
	}
	listMethods = map[string]method{"count": countItems, "index": indexItem, "copy": copySelf}
	tupleMethods = map[string]method{"count": countItems, "index": indexItem}
	floatMethods = map[string]method{"is_integer": func(_ *evaluator, recv any, a callArgs) (any, error) {
		f := recv.(float64)
		return f == math.Trunc(f) && !math.IsInf(f, 0), nil
	}}
}

// methodOf returns a method of obj's type, or nil.
func methodOf(obj any, name string) method {
	switch obj.(type) {
	case string:
		return stringMethods[name]
	case *Dict:
		return dictMethods[name]
	case []any:
		return listMethods[name]
	case tuple:
		return tupleMethods[name]
	case float64:
		return floatMethods[name]
	}
	return nil
}

// copySelf returns the receiver: values are immutable.
func copySelf(_ *evaluator, recv any, _ callArgs) (any, error) { return recv, nil }

func dictGet(e *evaluator, recv any, a callArgs) (any, error) {
	b, err := a.bindTo("get", 1, "key", "default")
	if err != nil {
		return nil, err
	}
	hash, err := e.hash(b.vals[0])
	if err != nil {
		return nil, err
	}
	d := recv.(*Dict)
	if i := d.find(hash); i >= 0 {
		return d.vals[i], nil
	}
	return b.any(1, nil), nil
}

// dictItems lists the entries of d as pairs.
func (e *evaluator) dictItems(d *Dict) ([]any, error) {
	if err := e.charge(3 * d.Len()); err != nil {
		return nil, err
	}
	items := make([]any, d.Len())
	for i, k := range d.keys {
		items[i] = tuple{k, d.vals[i]}
	}
	return items, nil
}

func dictView(e *evaluator, recv any, _ callArgs) (any, error) {
	items, err := e.dictItems(recv.(*Dict))
	return view{"dict_items", items}, err
}

func dictKeys(_ *evaluator, recv any, _ callArgs) (any, error) {
	return view{"dict_keys", recv.(*Dict).keys}, nil
}

func dictValues(_ *evaluator, recv any, _ callArgs) (any, error) {
	return view{"dict_values", recv.(*Dict).vals}, nil
}

func countItems(e *evaluator, recv any, a callArgs) (any, error) {
	b, err := a.bindTo("count", 1, "value")
	if err != nil {
		return nil, err
	}
	n := int64(0)
	items, err := e.seq(recv)
	for _, item := range items {
		same, err := e.equal(item, b.vals[0])
		if err != nil {
			return nil, err
		}
		if same {
			n++
		}
	}
	if err == nil {
		err = e.charge(len(items))
	}
	return n, err
}

func indexItem(e *evaluator, recv any, a callArgs) (any, error) {
	b, err := a.bindTo("index", 1, "value")
	if err != nil {
		return nil, err
	}
	items, err := e.seq(recv)
	if err != nil {
		return nil, err
	}
	for i, item := range items {
		if same, err := e.equal(item, b.vals[0]); err != nil || same {
			return int64(i), err
		}
	}
	return nil, fmt.Errorf("value is not in the %s", typeName(recv))
}
