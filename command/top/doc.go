// Package top is the live view of the load balancer without its terminal: it takes samples and keys, and returns frames to show and
// changes to make. It does no I/O and reads no clock, so that every frame can be tested.
package top
