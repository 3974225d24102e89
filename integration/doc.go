// Package integration tests Ballast as users run it: the built binary with real backends and real connections. It is the only package
// that starts servers. The kernel assigns ports, and tests wait by polling with a deadline. It is a module of its own, so that users do
// not get the dependencies of these tests.
package integration
