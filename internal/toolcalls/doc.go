// Package toolcalls finds calls of functions in the text of models that write them as the formats here say, while
// the text comes, and writes the grammar that makes a model call one.
//
// A call is announced when its name is read, is that of a tool, and its arguments begin; from then on pieces of the
// arguments come as they are written. What does not get that far is text, and so is everything in a whole answer
// (see Parse) that is not a complete call. The work is linear in the length of the text, whatever it says.
//
// It is used by step 2, actors/gateway.
package toolcalls
