// Package chat is a conversation with an engine on a terminal or through a pipe.
//
// A Session (session.go) reads messages and commands (input.go, command.go, set.go) from a console, sends the
// conversation (conversation.go) to a Client and shows the answer as it comes. The console is a terminal
// with line editing (terminal.go, keys.go) or a pair of streams (pipe.go); the client an engine in
// this process or over NATS (client.go), or one over HTTP (http.go). file.go saves and loads conversations.
//
// Nothing that comes from outside, be it an answer, an error or a file, reaches a terminal with control
// characters in it.
package chat
