// Package ratelimit is the handler that limits the requests of each client: its settings, how it identifies clients, the answer to refused
// requests, the state that survives a config reload, metrics and the admin API. Package bucket decides; package redisstore decides for a
// fleet.
package ratelimit
