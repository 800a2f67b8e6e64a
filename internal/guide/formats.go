package guide

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// The formats of strings that are generated, as expressions. Each is a subset of what the format's RFC allows, chosen
// so that common validators accept every match; a leap second or a quoted local part of an address is never written.
// In most of them each character says how to go on, which keeps masks cheap (maskruns.go). Lengths stay below the
// limits that schemas commonly set: 254 for an address, 2083 for a URI.
const (
	yearPattern = `(?:[1-9]\d{3}|0[1-9]\d{2}|00[1-9]\d|000[1-9])`
	leapPattern = `(?:\d\d(?:0[48]|[2468][048]|[13579][26])|(?:0[48]|[2468][048]|[13579][26])00)`
	datePattern = `(?:` + yearPattern + `-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12]\d|3[01])|(?:0[469]|11)-` +
		`(?:0[1-9]|[12]\d|30)|02-(?:0[1-9]|1\d|2[0-8]))|` + leapPattern + `-02-29)`
	timePattern  = `(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d{1,6})?(?:Z|[+-](?:[01]\d|2[0-3]):[0-5]\d)`
	labelPattern = `[a-zA-Z0-9]{1,20}(?:-[a-zA-Z0-9]{1,20}){0,2}`
	hostPattern  = labelPattern + `(?:\.` + labelPattern + `){0,3}`
	localPattern = `[a-zA-Z0-9!#$%&'*+/=?^_{|}~-]{1,20}`
	bytePattern  = `(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)`
	hexPattern   = `[0-9a-fA-F]{1,4}`
	pathPattern  = `(?:[a-zA-Z0-9._~!$&'()*+,;=:@/-]|%[0-9A-Fa-f]{2}){0,200}`
)

var formatPatterns = map[string]string{
	"date":      `^` + datePattern + `$`,
	"time":      `^` + timePattern + `$`,
	"date-time": `^` + datePattern + `T` + timePattern + `$`,
	"duration":  `^P(?:\d{1,6}W|\d{1,6}D|T\d{1,6}[HMS]|\d{1,6}DT\d{1,6}[HMS]|T\d{1,6}H\d{1,6}M(?:\d{1,6}S)?)$`,
	"email": `^` + localPattern + `(?:\.` + localPattern + `){0,2}@` + labelPattern + `(?:\.` + labelPattern +
		`){1,2}$`,
	"hostname": `^` + hostPattern + `$`,
	"ipv4":     `^` + bytePattern + `(?:\.` + bytePattern + `){3}$`,
	"ipv6": `^(?:(?:` + hexPattern + `:){7}` + hexPattern + `|::(?:` + hexPattern + `(?::` + hexPattern + `){0,5})?|` +
		hexPattern + `::(?:` + hexPattern + `(?::` + hexPattern + `){0,4})?|` + hexPattern + `:` + hexPattern + `::(?:` +
		hexPattern + `(?::` + hexPattern + `){0,3})?)$`,
	"uuid": `^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$`,
	"uri": `^[a-zA-Z][a-zA-Z0-9+.-]{1,20}://` + hostPattern + `(?::\d{1,4})?(?:/` + pathPattern + `)?(?:\?` +
		pathPattern + `)?(?:#` + pathPattern + `)?$`,
}

// formatPattern returns the expression of a format, or "" if the format is one of numbers or only a note.
func formatPattern(f located) string {
	switch f.text {
	case "int32", "int64", "float", "double", "password":
		return ""
	}
	pattern, ok := formatPatterns[f.text]
	if !ok {
		known := slices.Sorted(maps.Keys(formatPatterns))
		panic(&Error{At: f.at, Problem: fmt.Sprintf("the format %.40q is not supported", f.text),
			Hint: "use one of " + strings.Join(known, ", ") + ", or a pattern"})
	}
	return pattern
}
