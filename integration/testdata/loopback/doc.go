// Package loopback switches the loopback device on where a process has a network of its own.
package loopback
