package caddyapp

import "testing"

func TestServing(t *testing.T) {
	var s Serving[string]
	if got := s.Latest(); got != "" {
		t.Errorf("%q serves, want nobody", got)
	}
	for i, step := range []struct {
		do   func(string)
		app  string
		want string
	}{
		{s.Add, "first", "first"},
		{s.Add, "second", "second"},
		{s.Remove, "second", "first"}, // a reload that was given up
		{s.Add, "third", "third"},
		{s.Remove, "first", "third"}, // one that was not
		{s.Remove, "unknown", "third"},
		{s.Remove, "third", ""},
	} {
		if step.do(step.app); s.Latest() != step.want {
			t.Errorf("step %d: %q serves, want %q", i, s.Latest(), step.want)
		}
	}
}
