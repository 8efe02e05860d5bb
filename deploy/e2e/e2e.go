// Package e2e holds the tests of a whole host: the real programs, started as an operator starts them, real
// guests, and clients that know nothing of ichiro but its endpoint.
//
// Everything is looked at from outside: what the kernel has (taps, namespaces, rules, processes), what a
// guest says of itself through Run Command, what an AWS SDK is answered. One host serves most tests, and
// each of them leaves it as it was found; tests that end or double a host bring up their own.
//
//	go test -tags vm ./deploy/e2e      as root, with QEMU; guests run under TCG where there is no KVM
package e2e
