//go:build !faults

// Package fault names the points at which the tests of crashes strike.
//
// A program that is built as usual knows nothing of it: At is empty and leaves no code. Built with the tag faults, a
// program stops, as by SIGSTOP, at the point whose name a test has armed, and the test does what it likes to it, to
// another program, or to the network between them: so each step of the protocol is struck exactly, and not now and then.
//
//	test: creates DIR/arm.POINT      program: renames it to hit.POINT, stops      test: kills it, or has it go on
package fault

// At is where the point is.
func At(string) {}
