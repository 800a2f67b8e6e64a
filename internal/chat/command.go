package chat

import (
	"fmt"
	"strings"
)

// command is what a line that begins with a slash does.
type command struct {
	name, argument, doc string
	run                 func(s *Session, argument string) error
}

// commands is filled in by init: /help lists it.
var commands []command

func init() {
	commands = []command{
		{"help", "", "list the commands", (*Session).help},
		{"reset", "", "forget what was said; the system's message stays", (*Session).reset},
		{"system", "TEXT", "set the system's message and begin anew; without TEXT show it", (*Session).system},
		{"set", "NAME=VALUE", "set " + strings.Join(parameterNames(), ", "), (*Session).set},
		{"save", "FILE", "write the conversation to a file", (*Session).save},
		{"load", "FILE", "go on with a conversation from a file", (*Session).load},
		{"quit", "", "leave; so do Ctrl-D and Ctrl-C twice", nil},
	}
}

// runCommand executes a line that begins with a slash.
func (s *Session) runCommand(line string) (leave bool, err error) {
	name, argument, _ := strings.Cut(line[1:], " ")
	argument = strings.TrimSpace(argument)
	for _, c := range commands {
		if c.name != name {
			continue
		}
		switch {
		case c.argument == "" && argument != "":
			return false, fmt.Errorf("/%s takes no argument", name)
		case c.argument == "FILE" && argument == "":
			return false, fmt.Errorf("expected /%s FILE", name)
		case c.run == nil:
			return true, nil
		}
		return false, c.run(s, argument)
	}
	return false, fmt.Errorf("there is no /%s; /help lists the commands, and // begins a message with a slash", name)
}

func (s *Session) help(string) error {
	for _, c := range commands {
		usage := strings.TrimSpace("/" + c.name + " " + c.argument)
		s.console.note(fmt.Sprintf("%-16s %s", usage, c.doc))
	}
	s.console.note(`A line that ends in \ goes on, and so does a text from """ to """.`)
	s.console.note("Ctrl-C stops an answer.")
	return nil
}

func (s *Session) reset(string) error {
	s.conversation.reset()
	s.console.note("the conversation is empty")
	return nil
}

func (s *Session) system(text string) error {
	switch {
	case text == "" && s.conversation.System == "":
		s.console.note("there is no system message")
	case text == "":
		s.console.note("system: " + s.conversation.System)
	default:
		s.conversation.System = text
		s.conversation.reset()
		s.console.note("the system's message is set; the conversation is empty")
	}
	return nil
}

func (s *Session) set(assignment string) error {
	if assignment != "" {
		if err := set(&s.conversation.Params, assignment); err != nil {
			return err
		}
	}
	s.console.note(describe(&s.conversation.Params))
	return nil
}

func (s *Session) save(name string) error {
	if err := s.conversation.save(name); err != nil {
		return err
	}
	s.console.note(fmt.Sprintf("%d messages are in %s", len(s.conversation.Messages), name))
	return nil
}

func (s *Session) load(name string) error {
	c, err := load(name)
	if err != nil {
		return err
	}
	old := &s.conversation
	c.Params.Model, c.contextMax, c.bytesPerToken = old.Params.Model, old.contextMax, old.bytesPerToken
	s.conversation = *c
	s.console.note(fmt.Sprintf("%d messages; %s", len(c.Messages), describe(&c.Params)))
	return nil
}
