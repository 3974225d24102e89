package dashboard

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"net/http"
	"slices"
)

// mostBytes bounds the body of a change.
const mostBytes = 16 << 10

// changeable are the fields of a change that the page may send; takeable are more settings of which it only takes back what others
// have changed.
var (
	changeable = []string{"for", "reason", "state", "weight"}
	takeable   = []string{"backup", "max_requests", "zone"}
)

// order is the body of a change.
type order struct {
	Pool    string                     `json:"pool"`
	Backend string                     `json:"backend"`
	Change  map[string]json.RawMessage `json:"change"`
}

func (v Visit) mayChange() bool { return v.Actions && v.User != "" }

// change makes a change that a user of this very page asks for.
func (d *Dashboard) change(w http.ResponseWriter, r *http.Request, v Visit) {
	if err := d.origin.Check(r); err != nil {
		fail(w, http.StatusForbidden, "changes are made from the dashboard's own page only")
		return
	}
	switch {
	case !v.Actions:
		fail(w, http.StatusForbidden, "this dashboard is read-only: it is set up without actions")
		return
	case v.User == "":
		fail(w, http.StatusForbidden, "changes need a user who has logged in")
		return
	}
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		fail(w, http.StatusUnsupportedMediaType, "content type: must be application/json")
		return
	}
	o, err := readOrder(http.MaxBytesReader(w, r.Body, mostBytes))
	if tooLarge := new(http.MaxBytesError); errors.As(err, &tooLarge) {
		fail(w, http.StatusRequestEntityTooLarge, fmt.Sprintf("body: must have at most %d bytes", tooLarge.Limit))
		return
	}
	if err != nil {
		fail(w, http.StatusBadRequest, err.Error())
		return
	}
	change, err := json.Marshal(o.Change)
	if err == nil {
		err = d.source.Change(r.Context(), o.Pool, o.Backend, change, v.User)
		d.hub.shots.outdate() // also after an error: a part may have been done
	}
	if err != nil {
		refuse(w, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func readOrder(body io.Reader) (o order, err error) {
	decoder := json.NewDecoder(body)
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&o); err != nil {
		return o, fmt.Errorf("body: %w", err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return o, errors.New("body: something follows the change")
	}
	if o.Pool == "" || o.Backend == "" || len(o.Change) == 0 {
		return o, errors.New("body: needs pool, backend and change")
	}
	for _, field := range slices.Sorted(maps.Keys(o.Change)) {
		takenBack := slices.Contains(takeable, field) && string(o.Change[field]) == "null"
		if !takenBack && !slices.Contains(changeable, field) {
			return o, fmt.Errorf("change: %s: not changed here", field)
		}
	}
	return o, nil
}
