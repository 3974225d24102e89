package dashboard

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
)

func TestChange(t *testing.T) {
	const drain = `{"pool":"web","backend":"a/b","change":{"state":"drain","for":"5m","reason":"r"}}`
	ann := Visit{User: "ann", Actions: true}
	tests := []struct {
		name   string
		visit  Visit
		header [2]string
		kind   string
		body   string
		answer error
		status int
		want   string // part of the answer, or of the change that was made
	}{
		{"made", ann, [2]string{"Sec-Fetch-Site", "same-origin"}, "application/json", drain, nil, 204, `web/a/b {"for":"5m","reason":"r","state":"drain"} by ann`},
		{"same origin by Origin", ann, [2]string{"Origin", "http://example.com"}, "application/json; charset=utf-8", drain, nil, 204, "web/a/b"},
		{"reverted", ann, [2]string{}, "application/json", `{"pool":"web","backend":"a","change":{"weight":null}}`, nil, 204, `web/a {"weight":null} by ann`},
		{"reverted, set by another client", ann, [2]string{}, "application/json", `{"pool":"web","backend":"a","change":{"max_requests":null}}`, nil, 204, `web/a {"max_requests":null} by ann`},
		{"another setting", ann, [2]string{}, "application/json", `{"pool":"web","backend":"a","change":{"max_requests":3}}`, nil, 400, "max_requests"},
		{"another site", ann, [2]string{"Sec-Fetch-Site", "cross-site"}, "application/json", drain, nil, 403, "own page"},
		{"another origin of the site", ann, [2]string{"Sec-Fetch-Site", "same-site"}, "application/json", drain, nil, 403, "own page"},
		{"another origin", ann, [2]string{"Origin", "http://evil.example"}, "application/json", drain, nil, 403, "own page"},
		{"no user", Visit{Actions: true}, [2]string{}, "application/json", drain, nil, 403, "need a login"},
		{"read-only", Visit{User: "ann"}, [2]string{}, "application/json", drain, nil, 403, "read-only"},
		{"form", ann, [2]string{}, "application/x-www-form-urlencoded", drain, nil, 415, "application/json"},
		{"text", ann, [2]string{}, "text/plain", drain, nil, 415, "application/json"},
		{"no type", ann, [2]string{}, "", drain, nil, 415, "application/json"},
		{"no JSON", ann, [2]string{}, "application/json", "{", nil, 400, "body"},
		{"unknown field", ann, [2]string{}, "application/json", `{"pool":"web","backend":"a","change":{"weight":1},"x":1}`, nil, 400, "unknown field"},
		{"two", ann, [2]string{}, "application/json", drain + drain, nil, 400, "must end"},
		{"nothing", ann, [2]string{}, "application/json", `{"pool":"web","backend":"a","change":{}}`, nil, 400, "must have"},
		{"no backend", ann, [2]string{}, "application/json", `{"pool":"web","change":{"weight":1}}`, nil, 400, "must have"},
		{"address", ann, [2]string{}, "application/json", `{"pool":"web","backend":"a","change":{"address":"b:1"}}`, nil, 400, "address"},
		{"owner", ann, [2]string{}, "application/json", `{"pool":"web","backend":"a","change":{"weight":1,"owner":"bob"}}`, nil, 400, "owner"},
		{"large", ann, [2]string{}, "application/json", `{"pool":"` + strings.Repeat("a", mostBytes) + `"}`, nil, 413, "16384"},
		{"gone", ann, [2]string{}, "application/json", drain, Refusal{404, errors.New("backend a/b: there is none")}, 404, "there is none"},
		{"broken", ann, [2]string{}, "application/json", drain, errors.New("disk is full"), 500, "disk is full"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newSource()
			s.answered = tt.answer
			r := httptest.NewRequest(http.MethodPost, "http://example.com/lb/change", strings.NewReader(tt.body))
			if tt.kind != "" {
				r.Header.Set("Content-Type", tt.kind)
			}
			if tt.header[0] != "" {
				r.Header.Set(tt.header[0], tt.header[1])
			}
			w := ask(New(s), r, tt.visit)
			if w.Code != tt.status {
				t.Fatalf("status %d, want %d: %s", w.Code, tt.status, w.Body)
			}
			if tt.status != 204 {
				if !strings.Contains(w.Body.String(), tt.want) {
					t.Errorf("answer %s, want %q in it", w.Body, tt.want)
				}
				if asked := tt.answer != nil; asked != (len(s.changes) == 1) {
					t.Errorf("changes: %q", s.changes)
				}
				return
			}
			if !slices.ContainsFunc(s.changes, func(c string) bool { return strings.Contains(c, tt.want) }) {
				t.Errorf("changes %q, want %q", s.changes, tt.want)
			}
		})
	}
}

func FuzzOrder(f *testing.F) {
	f.Add(`{"pool":"web","backend":"a","change":{"state":"drain"}}`)
	f.Add(`{"change":{"weight":null}}{}`)
	f.Fuzz(func(t *testing.T, body string) {
		c, err := readChange(strings.NewReader(body))
		if err == nil && (c.Pool == "" || c.Backend == "" || len(c.Change) == 0) {
			t.Errorf("%q was accepted: %+v", body, c)
		}
	})
}
