package prequant

import (
	"fmt"
	"regexp"
	"strings"
)

// patterns choose modules by name.
type patterns struct {
	all    bool     // of the class Linear
	runs   []string // names, or parts of them between dots; dots around
	regexp []*regexp.Regexp
}

var everything = patterns{all: true}

// regexpPrefix marks a regular expression, which must match from a name's begin.
const regexpPrefix = "re:"

// add takes the entries of a list: names, parts of names, regular expressions, or classes of modules.
func (p *patterns) add(field string, entries []string) error {
	if len(entries) > PatternsMax {
		return fmt.Errorf("%s has %d entries, the limit is %d", field, len(entries), PatternsMax)
	}
	for i, entry := range entries {
		expression, is := strings.CutPrefix(entry, regexpPrefix)
		switch {
		case is:
			re, err := regexp.Compile("^(?:" + expression + ")")
			if err != nil {
				return fmt.Errorf("%s[%d] is %q, which is no regular expression that this engine knows (RE2)", field, i, clip(entry))
			}
			p.regexp = append(p.regexp, re)
		case entry == "Linear":
			p.all = true
		case entry != "":
			p.runs = append(p.runs, "."+strings.Trim(entry, ".")+".")
		}
	}
	return nil
}

// chooses reports whether an entry other than a class chooses module.
func (p *patterns) chooses(module string) bool {
	dotted := "." + module + "."
	for _, run := range p.runs {
		if strings.Contains(dotted, run) {
			return true
		}
	}
	for _, re := range p.regexp {
		if re.MatchString(module) {
			return true
		}
	}
	return false
}

// schemeOf returns how a module's matrix is quantized: nil if it is in no group, or in a list of those that are not.
// A group that names a module goes before one of its class.
func (c *Config) schemeOf(module string) *scheme {
	if c.ignored.chooses(module) {
		return nil
	}
	for i := range c.schemes {
		if c.schemes[i].targets.chooses(module) {
			return &c.schemes[i]
		}
	}
	for i := range c.schemes {
		if c.schemes[i].targets.all {
			return &c.schemes[i]
		}
	}
	return nil
}
