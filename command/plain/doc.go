// Package plain formats output for a terminal: aligned columns, short durations, colours if they are wanted, and no control characters. All
// text from a server goes through [Clean] before it is printed.
package plain
