package lbmodule

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/ballastlb/ballast/lbmodule/config"
	"github.com/ballastlb/ballast/lbmodule/overlay"
)

// quietIn is a config without a log, with its storage in that directory.
func quietIn(t testing.TB, dir string) *harness {
	t.Helper()
	return provision(t, dir, "", map[string]*caddy.CustomLog{})
}

// managed are the settings of the pool's backends that edits can change.
func (h *Handler) managed() []overlay.Running {
	return slices.DeleteFunc(h.service.Running(time.Now()), func(b overlay.Running) bool { return b.Removed != nil })
}

// lasting writes these settings without what depends on when they are looked at. It is "" if an edit ends by itself.
func (h *Handler) lasting() string {
	var text strings.Builder
	for _, b := range h.managed() {
		timed := b.Added != nil && !b.Added.Until.IsZero()
		for _, e := range b.Edits {
			timed = timed || !e.Until.IsZero()
		}
		if timed {
			return ""
		}
		fmt.Fprintf(&text, "%+v\n", b.Backend)
	}
	return text.String()
}

// checkManaged expects of all backends what a config or a change could have given them.
func checkManaged(t *testing.T, h *Handler, from string) {
	t.Helper()
	names, addresses := make(map[string]bool), make(map[string]bool)
	for _, b := range h.managed() {
		err := errors.Join(config.ValidateAddress(b.Address), config.ValidateName(b.Name), config.ValidateWeight(b.Weight), config.ValidateBackup(b.Backup))
		if b.MaxRequests != 0 {
			err = errors.Join(err, config.Ranges.Of("backends.max_requests").CheckIn("", float64(b.MaxRequests)))
		}
		if b.Zone != "" {
			err = errors.Join(err, config.ValidateName(b.Zone))
		}
		if err != nil || names[b.Name] || addresses[b.Address] {
			t.Fatalf("after %q there is the backend %+v: %v", from, b.Backend, err)
		}
		names[b.Name], addresses[b.Address] = true, true
	}
}

// FuzzAdmin sends changes to the admin API, a line each: a method, the path behind that of the pool, and a body. What is refused changes
// nothing, no setting gets out of its range, all answers are JSON, and what is in force in the end is so after a restart.
func FuzzAdmin(f *testing.F) {
	for _, script := range []string{
		`PATCH /backends/b {"weight": 7, "max_requests": 9, "backup": true, "zone": "eu"}` + "\n" + `PATCH /backends/b:1 {"backup": null, "zone": ""}`,
		`POST /backends {"address": "[::1]:8080", "weight": 2, "owner": "deploy", "reason": "more load"}` + "\n" + `DELETE /backends/%5B::1%5D:8080 {}`,
		`POST /backends {"address": "unix//run/a.sock", "name": "a", "backup": 3, "for": "1h"}` + "\n" + `POST /backends/a/reset `,
		`PATCH /backends/b {"state": "drain", "until": "2999-01-01T00:00:00Z"}` + "\n" + `PATCH /backends/b {"state": "maintenance"}`,
		`DELETE /backends/b {"reason": "old"}` + "\n" + `POST /backends {"address": "b:1"}` + "\n" + `DELETE /backends/b?force`,
		`POST /backends {"address": "c:1", "name": "b:1"}` + "\n" + `POST /backends {"address": "c:1", "name": "c"}` + "\n" + `POST /backends {"address": "c"}`,
		`PATCH /backends/b {"weight": 1e2}` + "\n" + `PATCH /backends/b {"weight": 1, "weight": 2}` + "\n" + `PATCH /backends/b {"weight": 65536}`,
		`PATCH /backends/b [1]` + "\n" + `PATCH /backends/b null` + "\n" + `PATCH /backends/b {"owner": "\u0000", "weight": 1}` + "\n" + `PUT /backends/b {}`,
	} {
		f.Add(script)
	}
	f.Fuzz(func(t *testing.T, script string) {
		const most = 6 // lines
		lines := strings.Split(script, "\n")
		if len(script) > 2048 || len(lines) > most {
			return
		}
		dir := newDir(t)
		c := quietIn(t, dir)
		h := c.serve(twoNamed)
		for _, line := range lines {
			method, rest, _ := strings.Cut(line, " ")
			path, body, _ := strings.Cut(rest, " ")
			if r, err := http.NewRequest(method, "http://a"+webPath+path, nil); err != nil || r.URL.Host != "a" || method == "" || strings.ContainsAny(path, "# \r\t") {
				return // it is no request
			}
			checkChange(t, h, method, webPath+path, body)
		}
		asks(t, "PATCH", webPath+"/backends/a:1?sync", `{"max_requests": 5}`)
		lasting := h.lasting()
		c.cancel()
		if again := quietIn(t, dir).serve(twoNamed).lasting(); again != lasting && lasting != "" {
			t.Fatalf("%q leaves\n%s\nand after a restart there is\n%s", script, lasting, again)
		}
	})
}

// checkChange asks for a change.
func checkChange(t *testing.T, h *Handler, method, path, body string) {
	t.Helper()
	if method == http.MethodGet || method == http.MethodHead {
		return // there is no change, and the events do not end
	}
	before := string(mustJSON(h.managed()))
	got := asks(t, method, path, body)
	what := method + " " + path + " " + body
	switch got.status {
	case http.StatusOK, http.StatusCreated, http.StatusAccepted:
		if !json.Valid([]byte(got.body)) {
			t.Fatalf("%q is answered with %q", what, got.body)
		}
	case http.StatusNoContent:
	case http.StatusBadRequest, http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusConflict, http.StatusRequestEntityTooLarge:
		if after := string(mustJSON(h.managed())); after != before {
			t.Fatalf("%q is answered with %d, but changed\n%s\nto\n%s", what, got.status, before, after)
		}
	default:
		t.Fatalf("%q is answered with %d %s", what, got.status, got.body)
	}
	checkManaged(t, h, what)
}

// FuzzState starts with any bytes where the state of a pool is stored; or, if sealed, with a document that has everything right but the
// edits, which are these bytes. They are either in force and in their ranges, or the config rules. The next change is stored in any case;
// what was unreadable is set aside then, and what a later version wrote is left alone.
func FuzzState(f *testing.F) {
	for _, state := range []string{
		`{"version":1}`, `{"version":3,"backends":{"b:1":{"revision":3,"edits":[{"field":"weight","value":9,"since":"2026-01-02T03:04:05Z"}]}}}`,
		`{"version":1,"backends":{"c:1":{"revision":1,"name":"c","added":{"since":"2026-01-02T03:04:05Z","owner":"me"},"edits":[{"field":"backup","value":true,"since":"2026-01-02T03:04:05Z"}]}}}`,
		`{"version":1,"backends":{"b:1":{"revision":1,"removed":{"since":"2026-01-02T03:04:05Z"}}}}`,
		`{"version":1,"backends":{"c:1":{"revision":1,"added":{"since":"2026-01-02T03:04:05Z","until":"2026-01-03T03:04:05Z"}}}}`,
		`{"version":1,"backends":{"b:1":{"edits":[{"field":"weight","value":-1}]}}}`, `{"version":1,"backends":{"c:1":{"added":{},"name":"<b>"}}}`,
		`{"version":18446744073709551615,"backends":{"b:1":{"revision":1,"edits":[{"field":"zone","value":"eu"}]}}}`,
	} {
		f.Add([]byte(state), true)
	}
	f.Add([]byte(`{"format":"ballast pool state","schema":2,"pool":"web","checksum":"x","state":{}}`), false)
	f.Add([]byte(`{"format":"ballast pool state","schema":1,"pool":"api","checksum":"x","state":{}}`), false)
	f.Add([]byte("null"), false)
	name := stateFile(f)
	f.Fuzz(func(t *testing.T, text []byte, sealed bool) {
		if len(text) > 4096 {
			return
		}
		if sealed {
			if text = sealedState(text); text == nil {
				return
			}
		}
		dir := newDir(t)
		file := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o700), os.WriteFile(file, text, 0o600)); err != nil {
			t.Fatal(err)
		}
		c := quietIn(t, dir)
		h := c.serve(twoNamed)
		checkManaged(t, h, string(text))
		_, _, unread := overlay.Decode("web", text)
		if plain := `{Address:a:1 Name:a:1 Settings:{Weight:1 MaxRequests:0 Backup:0 Zone: State:ready}}`; unread != nil && !strings.Contains(h.lasting(), plain) {
			t.Fatalf("%q cannot be read (%v), but there is %s", text, unread, h.lasting())
		}
		asks(t, "POST", webPath+"/backends?sync", `{"address": "fuzz.example:65000"}`)
		after, err := os.ReadFile(file)
		if errors.Is(unread, overlay.ErrLater) {
			if !bytes.Equal(after, text) {
				t.Fatalf("%q of a later version was overwritten: %q, %v", text, after, err)
			}
			return
		}
		stored, _, err := overlay.Decode("web", after)
		if err != nil || stored.Backends["fuzz.example:65000"].Added == nil {
			t.Fatalf("after %q (%v) and a change there is stored %q: %v", text, unread, after, err)
		}
		if unread == nil {
			return
		}
		if aside, err := os.ReadFile(file + ".unreadable"); err != nil || !bytes.Equal(aside, text) {
			t.Fatalf("%q cannot be read (%v); set aside is %q, %v", text, unread, aside, err)
		}
	})
}

// stateFile returns where the state of the pool web is in a storage.
func stateFile(f *testing.F) string {
	f.Helper()
	dir := newDir(f)
	c := quietIn(f, dir)
	c.serve(twoNamed)
	asks(f, "PATCH", webPath+"/backends/b?sync", `{"weight": 9}`)
	c.cancel()
	files, err := filepath.Glob(filepath.Join(dir, "load_balancer", "pools", "*"))
	if err != nil || len(files) != 1 {
		f.Fatal(files, err)
	}
	name, err := filepath.Rel(dir, files[0])
	if err != nil {
		f.Fatal(err)
	}
	return name
}

// sealedState returns a whole document with these edits; nil if they are no JSON.
func sealedState(state []byte) []byte {
	var compact bytes.Buffer
	if json.Compact(&compact, state) != nil {
		return nil
	}
	sum := sha256.Sum256([]byte("line\n" + compact.String()))
	return fmt.Appendf(nil, `{"format":"ballast pool state","schema":1,"pool":"web","lineage":"line","checksum":"sha256:%x","state":%s}`, sum, compact.Bytes())
}
