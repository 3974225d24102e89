// Package healthcheck derives from the results of probes whether a backend is up or down ([State]). It makes no probes itself.
package healthcheck
