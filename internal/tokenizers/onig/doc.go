// Package onig matches Oniguruma regular expressions, the dialect of tokenizer.json, on UTF-8 text.
//
// A pattern is parsed once into a tree in which every character class is an explicit set of code points.
// From the tree one of two engines is built:
//
//   - the scanner (scan.go), a small backtracking matcher over byte positions. It handles what tokenizer
//     patterns are made of: sequences and alternatives of repeated classes, look-ahead, one-character
//     look-behind, atomic groups. Alternatives are chosen by the first byte, and repeats that cannot
//     profit from backtracking do not keep any.
//   - dlclark/regexp2, fed with the tree printed in its own syntax, for everything else, such as repeated
//     groups and longer look-behind.
//
// Both give the leftmost match that a backtracking engine finds first. A randomized test holds them against
// each other. Both are bounded: a pattern that backtracks without end gives ErrBudget.
//
// Not supported, with an error at compile time: back-references, \K, \G, \X, absent operators, conditionals,
// and case folding to more than one character (ß against ss).
package onig
