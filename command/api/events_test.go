package api

import (
	"errors"
	"io"
	"strings"
	"testing"
)

func TestStream(t *testing.T) {
	for _, test := range []struct {
		name, sent string
		want       []Event
		broken     bool
	}{
		{"nothing", "", nil, false},
		{"one", "event: a\nid: 1\ndata: {}\n\n", []Event{{"a", "1", "{}"}}, false},
		{"carriage returns and no spaces", "event:a\r\nid:1\r\ndata:{}\r\n\r\n", []Event{{"a", "1", "{}"}}, false},
		{"comments", ": busy\n\n: busy\n\ndata: x\n\n", []Event{{"", "", "x"}}, false},
		{"several lines", "data: a\ndata: b\n\n", []Event{{"", "", "a\nb"}}, false},
		{"cut off", "data: a\n\ndata: b\n", []Event{{"", "", "a"}}, false},
		{"an event without data is none", "event: a\n\ndata: b\n\n", []Event{{"", "", "b"}}, false},
		{"a line without end", "data: " + strings.Repeat("x", 2<<20), nil, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newStream(io.NopCloser(strings.NewReader(test.sent)))
			for _, want := range test.want {
				if got, err := s.Next(); got != want || err != nil {
					t.Fatalf("got %v and %v, want %v", got, err, want)
				}
			}
			if got, err := s.Next(); err == nil || errors.Is(err, io.EOF) == test.broken {
				t.Errorf("got %v and %v in the end", got, err)
			}
		})
	}
}

func TestPath(t *testing.T) {
	for _, test := range []struct{ name, want string }{
		{"web", "/x/web"}, {"a/b", "/x/a%2Fb"}, {"[::1]:8080", "/x/%5B::1%5D:8080"}, {"a b?c#d%e", "/x/a%20b%3Fc%23d%25e"},
	} {
		if got := Path("/x", test.name); got != test.want {
			t.Errorf("Path(%q) = %s, want %s", test.name, got, test.want)
		}
	}
}
