// Package plain writes for people at a terminal: aligned columns, short durations, colours where they are wanted, and nothing that
// a terminal would obey. Whatever comes from a server goes through [Clean] before it is printed.
package plain
