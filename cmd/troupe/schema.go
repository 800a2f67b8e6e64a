package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"reflect"
	"strings"

	"github.com/spf13/cobra"

	"github.com/troupe-engine/troupe/internal/config"
	"github.com/troupe-engine/troupe/schemas"
)

// exchange is one subject with the messages that travel on it.
type exchange struct {
	Subject string   `json:"subject"`
	Path    string   `json:"path,omitempty"` // over HTTP
	Doc     string   `json:"doc"`
	Request message  `json:"request"`
	Reply   message  `json:"reply"`
	Event   *message `json:"event,omitempty"` // of a streamed answer
}

type message struct {
	Schema  json.RawMessage `json:"schema"` // JSON Schema, draft 2020-12
	Example any             `json:"example"`
}

func newMessage(t reflect.Type, example any) message {
	return message{json.RawMessage(schemas.JSONSchema(t)), example}
}

// exchanges lists all subjects, those for clients first.
func exchanges() []exchange {
	var list []exchange
	for _, e := range schemas.ClientEndpoints() {
		x := exchange{Subject: e.Subject(), Path: e.Path, Doc: e.Doc, Request: newMessage(e.Request, e.RequestExample), Reply: newMessage(e.Reply, e.ReplyExample)}
		if e.Event != nil {
			event := newMessage(e.Event, e.EventExample)
			x.Event = &event
		}
		list = append(list, x)
	}
	for _, e := range schemas.Endpoints() {
		list = append(list, exchange{Subject: e.Subject(), Doc: e.Doc, Request: newMessage(e.Request, e.RequestExample), Reply: newMessage(e.Reply, e.ReplyExample)})
	}
	return list
}

func newSchemaCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "schema [SUBJECT]", Short: "Show what travels on a subject: JSON Schema and examples.", Args: cobra.MaximumNArgs(1),
		Long:    "Show what travels on a subject: JSON Schema and examples. Without a subject, list\nthem all; with --json, all with everything.",
		Example: "  troupe schema\n  troupe schema inf.v1.chat\n  troupe schema memory.reserve --json"}
	asJSON := addJSON(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		out, list := cmd.OutOrStdout(), exchanges()
		if len(args) == 0 {
			if *asJSON {
				return printJSON(out, list)
			}
			return listExchanges(out, list)
		}
		x, err := findExchange(list, args[0])
		if err != nil {
			return err
		}
		if *asJSON {
			return printJSON(out, x)
		}
		return x.print(out)
	}
	return cmd
}

func findExchange(list []exchange, name string) (*exchange, error) {
	full := schemas.SubjectPrefix + strings.TrimPrefix(name, schemas.SubjectPrefix)
	var names []string
	for i := range list {
		if list[i].Subject == full {
			return &list[i], nil
		}
		names = append(names, list[i].Subject)
	}
	err := schemas.Errorf(schemas.KindNotFound, "schema", "no subject %.80q", name)
	if near := config.Nearest(full, names); near != "" {
		return nil, err.WithHint("did you mean %s?", near)
	}
	return nil, err.WithHint("`troupe schema` lists the subjects")
}

func listExchanges(w io.Writer, list []exchange) error {
	for _, x := range list {
		if _, err := fmt.Fprintf(w, "%s\n", x.Subject); err != nil {
			return err
		}
		for _, line := range wrap(x.Doc, columnsMax-4) {
			fmt.Fprintf(w, "    %s\n", line)
		}
	}
	return nil
}

// print writes an exchange for people.
func (x *exchange) print(w io.Writer) error {
	fmt.Fprintf(w, "%s\n", x.Subject)
	if x.Path != "" {
		fmt.Fprintf(w, "over HTTP: %s\n", x.Path)
	}
	fmt.Fprintf(w, "%s\n", strings.Join(wrap(x.Doc, columnsMax), "\n"))
	parts := []struct {
		name string
		m    *message
	}{{"request", &x.Request}, {"reply", &x.Reply}, {"event of a streamed answer", x.Event}}
	for _, p := range parts {
		if p.m == nil {
			continue
		}
		var schema bytes.Buffer
		if err := json.Indent(&schema, p.m.Schema, "", "  "); err != nil {
			return err
		}
		fmt.Fprintf(w, "\n%s, example:\n", p.name)
		if err := printJSON(w, p.m.Example); err != nil {
			return err
		}
		if _, err := fmt.Fprintf(w, "\n%s, schema:\n%s\n", p.name, &schema); err != nil {
			return err
		}
	}
	return nil
}

// wrap breaks text into lines of at most width columns, where words allow.
func wrap(text string, width int) []string {
	var lines []string
	line := ""
	for _, word := range strings.Fields(text) {
		if line != "" && len(line)+1+len(word) > width {
			lines, line = append(lines, line), ""
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	return append(lines, line)
}
