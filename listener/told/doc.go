// Package told logs and counts the requests of the express lane in the access log, the error log and the metrics of Caddy, exactly as Caddy
// does for the requests that it serves itself.
package told
