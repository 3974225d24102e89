package pool

import (
	"errors"
	"testing"
	"time"
)

func TestLiveRequests(t *testing.T) {
	var l Live
	var all []*LiveRequest
	ended := 0
	for i := range 100 {
		r := new(LiveRequest)
		l.Add(r, func(cause error) {
			if errors.Is(cause, ErrDrained) {
				ended++
			}
		}, time.Now())
		r.At([]string{"a:1", "b:1"}[i%2])
		all = append(all, r)
	}
	if got := l.List(1000, ""); len(got) != 100 || got[0].Address != "a:1" && got[0].Address != "b:1" {
		t.Errorf("%d listed, %+v", len(got), got[0])
	}
	if got := l.List(5, ""); len(got) != 5 || got[0].Since.After(got[4].Since) {
		t.Errorf("the oldest five: %+v", got)
	}
	if n := l.EndAt("a:1"); n != 50 || ended != 50 {
		t.Errorf("%d ended, said to be %d, want 50", ended, n)
	}
	// Of a request whose copy is there, the copy.
	var ends []string
	r := new(LiveRequest)
	l.Add(r, func(error) { ends = append(ends, "request") }, time.Now())
	r.At("c:1")
	r.Copied("d:1", func(error) { ends = append(ends, "copy") })
	l.EndAt("d:1")
	r.Copied("", nil)
	l.EndAt("d:1")
	if len(ends) != 1 || ends[0] != "copy" {
		t.Errorf("ended %v, want the copy", ends)
	}
	r.Done()
	for _, r := range all[:99] {
		r.Done()
	}
	if got := l.List(1000, ""); len(got) != 1 {
		t.Errorf("%d are left, want 1", len(got))
	}
	var never LiveRequest
	never.At("a:1")
	never.Done()
}
