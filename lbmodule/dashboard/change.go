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

// mostBytes is the maximum size of the body of a change.
const mostBytes = 16 << 10

// changeable lists the fields of a change that the page may set. The fields in revertible it may only reset to the config, with null:
// other clients of the API set them.
var (
	changeable = []string{"for", "reason", "state", "weight"}
	revertible = []string{"backup", "max_requests", "zone"}
)

// changeRequest is the body of a change.
type changeRequest struct {
	Pool    string                     `json:"pool"`
	Backend string                     `json:"backend"`
	Change  map[string]json.RawMessage `json:"change"`
}

func (v Visit) mayChange() bool { return v.Actions && v.User != "" }

// change makes a change that a user requests on the dashboard's own page.
func (d *Dashboard) change(w http.ResponseWriter, r *http.Request, v Visit) {
	if err := d.origin.Check(r); err != nil {
		fail(w, http.StatusForbidden, "changes must be sent by the dashboard's own page")
		return
	}
	switch {
	case !v.Actions:
		fail(w, http.StatusForbidden, "this dashboard is read-only: its config does not allow actions")
		return
	case v.User == "":
		fail(w, http.StatusForbidden, "changes need a login")
		return
	}
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		fail(w, http.StatusUnsupportedMediaType, "content type: must be application/json")
		return
	}
	c, err := readChange(http.MaxBytesReader(w, r.Body, mostBytes))
	if tooLarge := new(http.MaxBytesError); errors.As(err, &tooLarge) {
		fail(w, http.StatusRequestEntityTooLarge, fmt.Sprintf("body: must have at most %d bytes", tooLarge.Limit))
		return
	}
	if err != nil {
		fail(w, http.StatusBadRequest, err.Error())
		return
	}
	change, err := json.Marshal(c.Change)
	if err == nil {
		err = d.source.Change(r.Context(), c.Pool, c.Backend, change, v.User)
		d.hub.shots.invalidate() // also after an error: a part of the change may have been made
	}
	if err != nil {
		refuse(w, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func readChange(body io.Reader) (c changeRequest, err error) {
	decoder := json.NewDecoder(body)
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&c); err != nil {
		return c, fmt.Errorf("body: %w", err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return c, errors.New("body: must end after the change")
	}
	if c.Pool == "" || c.Backend == "" || len(c.Change) == 0 {
		return c, errors.New("body: must have pool, backend and change")
	}
	for _, field := range slices.Sorted(maps.Keys(c.Change)) {
		reverted := slices.Contains(revertible, field) && string(c.Change[field]) == "null"
		if !reverted && !slices.Contains(changeable, field) {
			return c, fmt.Errorf("change: %s: cannot be changed on the dashboard", field)
		}
	}
	return c, nil
}
