// Package integration tests Ballast as its users run it: the built binary, real backends, real connections. It is
// the only package that starts servers. Ports come from the kernel, waiting is polling with a deadline. It is in a
// module of its own, so that users do not inherit what only these tests need.
package integration
