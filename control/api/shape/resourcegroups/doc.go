// Package resourcegroups holds the requests and responses of the resource-groups API: groups of what has the same tags.
//
// Everything but this comment is generated (zz_*.go) by control/api/shape/gen from the public API model:
// Go structs whose tags carry the wire names, read by control/api/wire. An operation X has XInput and
// XOutput. A string that is absent is "", an absent number, boolean, time or structure is nil; a list is
// nil when absent and written empty when it has no elements but is not nil.
package resourcegroups

//go:generate go run ../gen -C ../../../..
