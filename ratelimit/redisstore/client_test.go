package redisstore

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestParse(t *testing.T) {
	for url, want := range map[string]struct {
		addrs    string
		password string
		db       int
		master   string
		sentinel string // its password
		cluster  bool
		tls      bool
	}{
		"redis://127.0.0.1:6379/2":                                {addrs: "127.0.0.1:6379", db: 2},
		"redis://localhost":                                       {addrs: "localhost:6379"},
		"redis://:p%40ss@127.0.0.1:6379":                          {addrs: "127.0.0.1:6379", password: "p@ss"},
		"rediss://u:p@redis.example:6380?skip_verify=true":        {addrs: "redis.example:6380", password: "p", tls: true},
		"unix:///run/redis.sock?db=1":                             {addrs: "/run/redis.sock", db: 1},
		"redis+cluster://a:1?addr=b:2&addr=c:3":                   {addrs: "a:1 b:2 c:3", cluster: true},
		"rediss+cluster://u:p@a:1":                                {addrs: "a:1", password: "p", cluster: true, tls: true},
		"redis+sentinel://:p@a:1/4?addr=b:2&master_name=main":     {addrs: "a:1 b:2", password: "p", db: 4, master: "main"},
		"rediss+sentinel://a:1?master_name=main&skip_verify=true": {addrs: "a:1", master: "main", tls: true},
	} {
		o, err := parse(url)
		if err != nil {
			t.Errorf("%s: %v", url, err)
			continue
		}
		addrs := strings.Join(o.Addrs, " ")
		if addrs != want.addrs || o.Password != want.password || o.DB != want.db || o.SentinelPassword != want.sentinel || o.MasterName != want.master || o.IsClusterMode != want.cluster || (o.TLSConfig != nil) != want.tls {
			t.Errorf("%s: got %+v", url, o)
		}
	}
	for url, want := range map[string]string{
		"":                                    `scheme ""`,
		"127.0.0.1:6379":                      "must be a URL",
		"http://127.0.0.1":                    `scheme "http"`,
		"redis+ring://127.0.0.1":              `scheme "redis+ring"`,
		"redis://127.0.0.1/x":                 "database number",
		"redis://127.0.0.1?max_retries=3":     `parameter "max_retries"`,
		"redis://127.0.0.1?addr=b:1":          `parameter "addr"`,
		"redis+cluster://127.0.0.1?db=1":      `parameter "db"`,
		"redis+sentinel://127.0.0.1:26379":    "master_name",
		"redis://user:pass word@127.0.0.1/\n": "must be a URL",
	} {
		if err := Check(url); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want an error with %s", url, err, want)
		} else if strings.Contains(err.Error(), "pass word") {
			t.Errorf("%q: the error tells the password: %v", url, err)
		}
	}
}

func TestGuard(t *testing.T) {
	fail := errors.New("failed")
	for name, tt := range map[string]struct {
		outcomes string // + for a success, - for a failure
		want     bool   // it is down at the end
	}{
		"nothing":              {"", false},
		"two in a row":         {"++--", false},
		"three in a row":       {"++---", true},
		"two, and again":       {"--+--+--+", false},
		"half of twenty":       {"-+-+-+-+-+-+-+-+-+-+", true},
		"less than half":       {"-++-++-++-++-++-++-++-++-++-++", false},
		"half, long ago":       {"-+-+-+-+-" + strings.Repeat("+", 20) + "-+-+", false},
		"three at first":       {"---", true},
		"down, whatever comes": {"---+++", true},
	} {
		g := guard{failed: make(chan struct{}, 1)}
		for _, o := range tt.outcomes {
			if o == '+' {
				g.report(nil)
			} else {
				g.report(fail)
			}
		}
		if got := g.down.Load(); got != tt.want || got && !errors.Is(g.reason(), fail) || got != (len(g.failed) == 1) {
			t.Errorf("%s: down %t, want %t", name, got, tt.want)
		}
	}
}

// A store that was not started, or is closed, fails at once.
func TestLife(t *testing.T) {
	s, err := New(Options{URL: "redis://127.0.0.1:1", Timeout: time.Second, Changed: func(error) {}})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	s.Start()
	if _, err := s.Take("z", nil, []Bucket{{Rate: 1, Burst: 1}}); !errors.Is(err, ErrUnavailable) {
		t.Errorf("got %v, want it to be unavailable", err)
	}
	s.Refund("z", nil, []Bucket{{Rate: 1, Burst: 1}})
	if err := s.Forget(t.Context(), "z", nil, nil); !errors.Is(err, ErrUnavailable) {
		t.Errorf("got %v, want it to be unavailable", err)
	}
}

// Requests fail in time if no server listens, and goroutines end with the store.
func TestNobodyThere(t *testing.T) {
	var changes []error
	s, err := New(Options{URL: "redis://127.0.0.1:1", Timeout: 100 * time.Millisecond, Changed: func(err error) { changes = append(changes, err) }})
	if err != nil {
		t.Fatal(err)
	}
	for range 5 {
		if _, err := s.Take("z", []byte("k"), []Bucket{{Key: []byte("k"), Rate: 1, Burst: 1}}); err == nil {
			t.Error("a decision without a server")
		}
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if len(changes) > 1 || slices.Contains(changes, nil) {
		t.Errorf("changes: %v, want at most one error", changes)
	}
	if s.Available() {
		t.Error("an unreachable store is available")
	}
}
