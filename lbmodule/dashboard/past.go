package dashboard

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
)

// Past is a query of the history.
type Past struct {
	Pool    string
	Backend string // name or address; "" for the pool
	Range   string // 5m, 1h or 24h; "" for the shortest
	CSV     bool   // CSV instead of JSON
}

// AskedPast returns the history query of a request, from its URL query and its Accept header. In the admin API, the pool is in the path
// instead, and the caller sets it.
func AskedPast(r *http.Request) (p Past, err error) {
	query := r.URL.Query()
	p = Past{Pool: query.Get("pool"), Backend: query.Get("backend"), Range: query.Get("range")}
	switch format := query.Get("format"); format {
	case "csv":
		p.CSV = true
	case "json":
	case "":
		p.CSV = prefersCSV(r.Header.Get("Accept"))
	default:
		return p, fmt.Errorf("format %s: must be one of json, csv", format)
	}
	return p, nil
}

// prefersCSV reports whether an Accept header names CSV before anything that JSON matches.
func prefersCSV(accept string) bool {
	for kind := range strings.SplitSeq(accept, ",") {
		kind, _, _ = strings.Cut(kind, ";")
		switch strings.ToLower(strings.TrimSpace(kind)) {
		case "text/csv":
			return true
		case "application/json", "application/*", "*/*":
			return false
		}
	}
	return false
}

// Write answers with content, which is in the format of p.
func (p Past) Write(w http.ResponseWriter, content []byte) {
	w.Header().Set("Content-Type", "application/json")
	if p.CSV {
		w.Header().Set("Content-Type", "text/csv; charset=utf-8")
	}
	w.Header().Set("Vary", "Accept")
	_, _ = w.Write(content)
}

// history answers with the history of a pool or a backend.
func (d *Dashboard) history(w http.ResponseWriter, r *http.Request) {
	p, err := AskedPast(r)
	if err != nil {
		fail(w, http.StatusBadRequest, err.Error())
		return
	}
	content, err := d.source.History(p)
	if err != nil {
		refuse(w, err)
		return
	}
	p.Write(w, content)
}

// explain answers with why a backend can or cannot be selected.
func (d *Dashboard) explain(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	content, err := d.source.Explain(query.Get("pool"), query.Get("backend"))
	if err != nil {
		refuse(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(content)
}

// refuse answers with an error of the source, with its status if it is a [Refusal].
func refuse(w http.ResponseWriter, err error) {
	status := http.StatusInternalServerError
	if refusal := (Refusal{}); errors.As(err, &refusal) {
		status = refusal.Status
	}
	fail(w, status, err.Error())
}
