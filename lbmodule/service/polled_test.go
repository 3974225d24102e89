package service

import (
	"context"
	"errors"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

func TestIsNegative(t *testing.T) {
	for _, test := range []struct {
		err  error
		want bool
	}{
		{nil, false},
		{&net.DNSError{Err: "no such host", IsNotFound: true}, true},
		{fmt.Errorf("looking up: %w", &net.DNSError{Err: "no such host", IsNotFound: true}), true},
		{&net.AddrError{Err: "no suitable address found", Addr: "app"}, true},
		{&net.DNSError{Err: "server misbehaving"}, false},
		{&net.DNSError{Err: "server misbehaving", IsTemporary: true}, false},
		{&net.DNSError{Err: "no such host", IsNotFound: true, IsTemporary: true}, false},
		{&net.DNSError{Err: "i/o timeout", IsTimeout: true}, false},
		{&net.DNSError{Err: "cannot unmarshal DNS message"}, false},
		{&net.DNSError{Err: "lame referral"}, false},
		{&net.OpError{Op: "dial", Err: errors.New("connection refused")}, false},
		{context.DeadlineExceeded, false},
	} {
		if got := isNegative(test.err); got != test.want {
			t.Errorf("%v: %v, want %v", test.err, got, test.want)
		}
	}
}

// TestAnswers makes a source answer once a second, with a negative_ttl of 3 s: y(es), n(o) or f(ailure). It holds its backend while + is
// wanted.
func TestAnswers(t *testing.T) {
	notFound := &net.DNSError{IsNotFound: true}
	for _, test := range []struct{ answers, want string }{
		{"yynnnnn", "+++++--"},
		{"ynnn", "++++"},
		{"ynnyn", "+++++"},                     // the name was back
		{"ynnynnnn", "+++++++-"},               // and goes again
		{"yffffffff", "+++++++++"},             // there was no negative answer
		{"ynnfnnn", "++++++-"},                 // time without an answer does not count
		{"ynnfffffffffnnn", "++++++++++++++-"}, // however long it is
		{"ynfnfnfnfnf", "+++++++++++"},         // nor is it known what was between two answers
		{"ynnnnf", "++++--"},                   // a failure brings no backend back
		{"ynnnnfny", "++++---+"},               // but an answer does, at once
		{"nny", "--+"},                         // without a backend from the start there is nothing to keep
		{"ffnfy", "----+"},
	} {
		var a answers
		now, got := time.Now(), ""
		for _, answer := range test.answers {
			switch answer {
			case 'y':
				a.note(found{list: []*reverseproxy.Upstream{{Dial: "a:1"}}}, nil, 3*time.Second, now)
			case 'n':
				a.note(found{}, notFound, 3*time.Second, now)
			case 'f':
				a.note(found{}, errors.New("no answer"), 3*time.Second, now)
			}
			if now = now.Add(time.Second); len(a.list) > 0 {
				got += "+"
			} else {
				got += "-"
			}
		}
		if got != test.want {
			t.Errorf("%s: %s, want %s", test.answers, got, test.want)
		}
	}
	var a answers
	a.note(found{list: []*reverseproxy.Upstream{{Dial: "a:1"}}}, nil, 0, time.Now())
	if a.note(found{}, nil, 0, time.Now()); len(a.list) > 0 || a.state != gone {
		t.Error("negative_ttl 0s: an empty list is not believed at once")
	}
}
