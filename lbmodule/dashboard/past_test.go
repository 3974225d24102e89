package dashboard

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestPast(t *testing.T) {
	tests := []struct {
		name, target, accept string
		answer               error
		status               int
		want, kind           string
	}{
		{"pool", "/history?pool=web", "", nil, 200, `{Pool:web Backend: Range: CSV:false}`, "application/json"},
		{"backend", "/history?pool=a%2Fb&backend=%5B::1%5D:80&range=24h", "*/*", nil, 200, `{Pool:a/b Backend:[::1]:80 Range:24h CSV:false}`, "application/json"},
		{"table", "/history?pool=web&format=csv", "application/json", nil, 200, `CSV:true`, "text/csv; charset=utf-8"},
		{"no table", "/history?pool=web&format=json", "text/csv", nil, 200, `CSV:false`, "application/json"},
		{"table by Accept", "/history?pool=web", "Text/CSV; q=1, */*;q=0.1", nil, 200, `CSV:true`, "text/csv; charset=utf-8"},
		{"browser", "/history?pool=web", "text/html,application/xhtml+xml,*/*;q=0.8", nil, 200, `CSV:false`, "application/json"},
		{"JSON first", "/history?pool=web", "application/json, text/csv", nil, 200, `CSV:false`, "application/json"},
		{"neither", "/history?pool=web", "image/png", nil, 200, `CSV:false`, "application/json"},
		{"another format", "/history?pool=web&format=xml", "", nil, 400, "format xml: must be one of json, csv", "application/json"},
		{"refused", "/history?pool=shop", "", Refusal{404, errors.New("pool shop: there is none")}, 404, "there is none", "application/json"},
		{"broken", "/history?pool=shop&format=csv", "", errors.New("out of order"), 500, "out of order", "application/json"},
		{"explanation", "/explain?pool=a&backend=b", "", nil, 200, `"a/b"`, "application/json"},
		{"no explanation", "/explain?pool=a&backend=c", "", Refusal{404, errors.New("backend c: there is none")}, 404, "there is none", "application/json"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newSource()
			s.answered = tt.answer
			r := httptest.NewRequest(http.MethodGet, tt.target, nil)
			r.Header.Set("Accept", tt.accept)
			w := ask(New(s), r, Visit{})
			if w.Code != tt.status || w.Header().Get("Content-Type") != tt.kind || !strings.Contains(w.Body.String(), tt.want) {
				t.Errorf("%d %s %s, want %d %s %s", w.Code, w.Header().Get("Content-Type"), w.Body, tt.status, tt.kind, tt.want)
			}
		})
	}
}
