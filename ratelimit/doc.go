// Package ratelimit is the handler that limits what each client may ask for, as Caddy sees it: its settings, who a client
// is, the answer to those who are refused, what survives a config reload, metrics and the admin API. Package bucket decides;
// package redisstore decides for a fleet.
package ratelimit
