// Package told is how requests of the express lane are told of: in the access log, the error log and the metrics of Caddy, as Caddy itself
// tells of those that it serves.
package told
