// Package healthcheck says what a run of probes of a backend means: whether it is up or down ([State]). It makes none itself.
package healthcheck
