package lbmodule

import (
	"io"
	"net/http"
	"strings"
	"testing"
)

// tunnel is the body of an answer that switches protocols.
type tunnel struct{ io.ReadWriter }

func (tunnel) Close() error { return nil }

func TestCheckAnswer(t *testing.T) {
	upgrade := func(protocol string) http.Header {
		return http.Header{"Connection": {"keep-alive, upgrade"}, "Upgrade": {protocol}}
	}
	body, plain := tunnel{}, io.NopCloser(strings.NewReader(""))
	for name, test := range map[string]struct {
		asked  http.Header
		status int
		answer http.Header
		body   io.ReadCloser
		right  bool
	}{
		"negative":                {nil, -1, nil, plain, false},
		"none":                    {nil, 0, nil, plain, false},
		"two digits":              {nil, 99, nil, plain, false},
		"informational":           {nil, 100, nil, plain, true}, // of FastCGI, as in reverse_proxy
		"unknown class":           {nil, 999, nil, plain, true},
		"four digits":             {nil, 1000, nil, plain, false},
		"switch":                  {upgrade("websocket"), 101, upgrade("WebSocket"), body, true},
		"switch unasked":          {nil, 101, upgrade("websocket"), body, false},
		"switch to another":       {upgrade("websocket"), 101, upgrade("h2c"), body, false},
		"switch to nothing":       {upgrade("websocket"), 101, nil, body, false},
		"switch without the word": {upgrade("websocket"), 101, http.Header{"Upgrade": {"websocket"}}, body, false},
		"ask without the word":    {http.Header{"Upgrade": {"websocket"}}, 101, upgrade("websocket"), body, false},
		"switch by look-alike":    {upgrade("k"), 101, upgrade("\u212a"), body, false},
		"switch to odd bytes":     {upgrade("\u212a"), 101, upgrade("\u212a"), body, false},
		"switch of one way":       {upgrade("websocket"), 101, upgrade("websocket"), plain, false},
	} {
		err := checkAnswer(&http.Request{Header: test.asked}, &http.Response{StatusCode: test.status, Header: test.answer, Body: test.body})
		if (err == nil) != test.right {
			t.Errorf("%s: %v", name, err)
		}
	}
}
