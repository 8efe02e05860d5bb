// Package arch makes the plan of the house executable: it holds only tests.
//
// The tables in tables_test.go say which floor a room is on, which library has its door
// where and why it is there at all, and which packages are deciders. The tests read the
// source with `go list` and the parser and compare. When a test fails, either the line is
// in the wrong room or the plan is wrong; the second is mended in the table, with a reason.
package arch
