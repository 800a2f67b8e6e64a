package profile

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"

	"github.com/troupe-engine/troupe/schemas"
)

const (
	fileBytesMax = 64 << 20
	knotsMax     = 4096
	knotsApart   = 1e-3
)

// Load reads a profile from a file. An error names the field that makes no sense.
func Load(path string) (*Profile, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, schemas.Errorf(schemas.KindNotFound, "profile", "%v", err).WithParam("profile").WithHint("make one with troupe profile")
	}
	if info.Size() > fileBytesMax {
		return nil, schemas.Errorf(schemas.KindInvalid, "profile", "%s has %d bytes; a profile has at most %d", filepath.Base(path), info.Size(), fileBytesMax).WithParam("profile")
	}
	body, err := os.ReadFile(path)
	if err != nil {
		return nil, schemas.Errorf(schemas.KindInvalid, "profile", "%v", err).WithParam("profile")
	}
	p, err := Parse(body)
	if err != nil {
		e := schemas.AsError(err, "profile")
		e.Detail = filepath.Base(path) + ": " + e.Detail
		return nil, e
	}
	return p, nil
}

// Parse reads a profile.
func Parse(body []byte) (*Profile, error) {
	p := &Profile{}
	d := json.NewDecoder(bytes.NewReader(body))
	if err := d.Decode(p); err != nil {
		return nil, schemas.Errorf(schemas.KindInvalid, "profile", "%v", err)
	}
	return p, p.Validate()
}

// Write writes a profile to a file.
func (p *Profile) Write(path string) error {
	body, err := json.MarshalIndent(p, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Clean(path), append(body, '\n'), 0o644)
}

// nsMax bounds every number of a profile: a day.
const nsMax = 24 * 3600 * 1e9

// Validate names the first field that makes no sense.
func (p *Profile) Validate() error {
	bad := func(field, format string, args ...any) error {
		return schemas.Errorf(schemas.KindInvalid, "profile", field+": "+format, args...).WithParam(field)
	}
	if p.Version != Version {
		return bad("version", "%d; this program reads version %d", p.Version, Version)
	}
	for _, f := range []struct {
		name  string
		value float64
	}{{"terms.row_ns", p.Terms.RowNs}, {"terms.decode_ns", p.Terms.DecodeNs}, {"terms.prefill_ns", p.Terms.PrefillNs},
		{"terms.resume_ns", p.Terms.ResumeNs},
		{"serving.request_ns", p.Serving.RequestNs}, {"serving.prompt_ns", p.Serving.PromptNs}, {"serving.result_ns", p.Serving.ResultNs},
		{"serving.token_ns", p.Serving.TokenNs}} {
		if !(f.value >= 0 && f.value <= nsMax) {
			return bad(f.name, "%g; expected 0 or more nanoseconds", f.value)
		}
	}
	for _, c := range []struct {
		name  string
		curve *Curve
	}{{"terms.tokens", &p.Terms.Tokens}, {"terms.sampled", &p.Terms.Sampled}} {
		if err := c.curve.check(); err != nil {
			return bad(c.name, "%v", err)
		}
	}
	if err := checkPace(p.Pace); err != nil {
		return bad("pace", "%v", err)
	}
	return nil
}

func (c *Curve) check() error {
	if len(c.X) != len(c.Y) || len(c.X) > knotsMax {
		return fmt.Errorf("%d knots with %d values; expected as many of both, at most %d", len(c.X), len(c.Y), knotsMax)
	}
	for i := range c.X {
		if !(c.X[i] >= 0 && c.X[i] <= math.MaxInt32) || i > 0 && c.X[i] < c.X[i-1]+knotsApart {
			return fmt.Errorf("knot %d is %g; expected ascending numbers, 0 or more, %g apart", i, c.X[i], knotsApart)
		}
		if !(c.Y[i] >= 0 && c.Y[i] <= nsMax) {
			return fmt.Errorf("value %d is %g; expected 0 or more nanoseconds", i, c.Y[i])
		}
	}
	return nil
}

// Default is the built-in profile that simulations use when nothing else is said: the model that ships with the
// program on the machine that its Origin names, which is not yours.
const Default = "troupe-tiny-cpu"

//go:embed builtin/troupe-tiny-cpu.json
var troupeTinyCPU []byte

// Builtins lists the profiles that come with the program.
func Builtins() []string { return []string{"instant", Default} }

// Named finds a built-in profile, or reads a file.
func Named(name string) (*Profile, error) {
	switch name {
	case "instant":
		return Instant(), nil
	case Default:
		return Parse(troupeTinyCPU)
	}
	p, err := Load(name)
	if err != nil && filepath.Ext(name) == "" {
		return nil, schemas.AsError(err, "profile").WithHint("give a file made by troupe profile, or one of %s", strings.Join(Builtins(), ", "))
	}
	return p, err
}
