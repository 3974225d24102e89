package discovery

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddyserver/caddy/v2"
)

// serverFunc is a server as a transport: in a test whose time is not that of the network there is none.
type serverFunc func(w http.ResponseWriter, r *http.Request)

func (f serverFunc) RoundTrip(r *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	f(w, r)
	if r.Context().Err() != nil {
		return nil, r.Context().Err()
	}
	answer := w.Result()
	answer.Request = r
	return answer, nil
}

// served is a source whose server is that function.
func served(t *testing.T, h *HTTP, serve serverFunc) *HTTP {
	t.Helper()
	if h.URL == "" {
		h.URL = "http://registry.test/web"
	}
	provisioned(t, h)
	h.client.Transport = serve
	return h
}

func answerJSON(w http.ResponseWriter, text string) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	fmt.Fprint(w, text)
}

// TestHTTP has a server do what servers do. Whatever is no good list, the last good one is kept.
func TestHTTP(t *testing.T) {
	t.Parallel()
	bomb := new(bytes.Buffer)
	zip := gzip.NewWriter(bomb)
	_, _ = zip.Write(bytes.Repeat([]byte(" "), maxSize+1))
	_ = zip.Close()
	good := func(w http.ResponseWriter, _ *http.Request) { answerJSON(w, list("a:1")) }
	for name, test := range map[string]struct {
		serve http.HandlerFunc
		want  string
	}{
		"500": {func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, list("b:1"), http.StatusInternalServerError)
		}, "answered with status 500: must be 200"},
		"204": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }, "answered with status 204"},
		"206": {func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusPartialContent)
			answerJSON(w, list("b:1"))
		}, "status 206"},
		"304":     {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotModified) }, "status 304"}, // nobody asked for it
		"type":    {func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, list("b:1")) }, `Content-Type "text/plain; charset=utf-8": must be application/json`},
		"garbage": {func(w http.ResponseWriter, _ *http.Request) { answerJSON(w, "<html>") }, "line 1: byte 1: must be JSON"},
		"empty":   {func(w http.ResponseWriter, _ *http.Request) { answerJSON(w, "[]") }, "names no target"},
		"nothing": {func(w http.ResponseWriter, _ *http.Request) { answerJSON(w, "") }, "and is empty"},
		"label": {func(w http.ResponseWriter, _ *http.Request) {
			answerJSON(w, `[{"targets": ["b:1"], "labels": {"backup": "x"}}]`)
		}, `target b:1: label backup "x"`},
		"large": {func(w http.ResponseWriter, _ *http.Request) { answerJSON(w, strings.Repeat(" ", maxSize+1)) }, "at most 16 MiB"},
		"bomb": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			answerJSON(w, bomb.String())
		}, "at most 16 MiB"},
		"cut": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000")
			answerJSON(w, list("b:1"))
		}, "cannot be read: unexpected EOF"},
		"hang up":  {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, "EOF"},
		"loop":     {func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/s3cret", http.StatusFound) }, "must not redirect more than 10 times"},
		"too slow": {func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, "must answer within 1s"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var step atomic.Pointer[http.HandlerFunc]
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { (*step.Load())(w, r) }))
			t.Cleanup(server.Close)
			step.Store(new(http.HandlerFunc(good)))
			h := provisioned(t, &HTTP{URL: strings.Replace(server.URL, "http://", "http://user:s3cret@", 1) + "/web?token=s3cret", Interval: caddy.Duration(time.Second)})
			if got := says(t, h); got != "a:1" {
				t.Fatalf("says %q", got)
			}
			step.Store(&test.serve)
			waitSays(t, h, test.want)
			if got := says(t, h); !strings.HasPrefix(got, "a:1 ") || strings.Contains(got, "s3cret") {
				t.Errorf("says %q, want the good list and no secret", got)
			}
			step.Store(new(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { answerJSON(w, list("c:1")) })))
			waitSays(t, h, "c:1")
		})
	}
}

// A server that cannot be found, or that is not there, is no reason to forget anybody.
func TestHTTPWithoutServer(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	h := provisioned(t, &HTTP{URL: "http://user:s3cret@" + l.Addr().String() + "/web?s3cret"})
	if got := says(t, h); !strings.Contains(got, "refused") || strings.Contains(got, "s3cret") {
		t.Errorf("says %q", got)
	}
}

// TestHTTPIntervals: while there is no list the server is asked more and more rarely, later once an interval, a tenth more or less.
func TestHTTPIntervals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked []time.Duration
		status := http.StatusInternalServerError
		last := time.Now()
		h := served(t, &HTTP{}, func(w http.ResponseWriter, _ *http.Request) {
			asked = append(asked, time.Since(last))
			last = time.Now()
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(status)
			fmt.Fprint(w, list("a:1"))
		})
		poll := func(d time.Duration) {
			for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
				_, _ = h.List(t.Context())
			}
			synctest.Wait()
		}
		poll(3 * time.Minute)
		for i, want := range []time.Duration{0, time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second, 16 * time.Second, 30 * time.Second, 30 * time.Second} {
			if got := asked[i]; got < want*9/10 || got > want*11/10+20*time.Millisecond {
				t.Errorf("attempt %d after %v, want %v and a tenth more or less", i, got, want)
			}
		}
		status = http.StatusOK
		poll(time.Minute)
		asked = nil
		poll(10 * time.Minute)
		different := false
		for _, pause := range asked {
			different = different || pause < 29*time.Second || pause > 31*time.Second
			if pause < 27*time.Second || pause > 33*time.Second+20*time.Millisecond {
				t.Errorf("asked after %v", pause)
			}
		}
		if n := len(asked); n < 18 || n > 23 || !different {
			t.Errorf("asked %d times in ten minutes, at different intervals: %v", n, different)
		}
	})
}

// TestHTTPWaitsOnce: a server that does not answer delays only the first requests, and these for a limited time.
func TestHTTPWaitsOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := served(t, &HTTP{}, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
		start := time.Now()
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := h.List(short); !errors.Is(err, errNoAnswer) || time.Since(start) != time.Second {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		if got := says(t, h); got != "must answer within 10s" || time.Since(start) != mostTime {
			t.Errorf("%s after %v", got, time.Since(start))
		}
		for range 1000 {
			says(t, h)
			time.Sleep(100 * time.Millisecond)
		}
		if took := time.Since(start) - mostTime; took != 100*time.Second {
			t.Errorf("later calls waited for %v", took-100*time.Second)
		}
	})
}

// TestHTTPTags: what has not changed is not sent again.
func TestHTTPTags(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sent, spared int
		target, tag := "a:1", `"1"`
		h := served(t, &HTTP{}, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("ETag", tag)
			if r.Header.Get("If-None-Match") == tag {
				spared++
				w.WriteHeader(http.StatusNotModified)
				return
			}
			sent++
			answerJSON(w, list(target))
		})
		pass := func(want string) {
			t.Helper()
			for range 10 {
				time.Sleep(10 * time.Second)
				says(t, h)
				synctest.Wait()
			}
			if got := says(t, h); got != want {
				t.Errorf("says %s, want %s", got, want)
			}
		}
		pass("a:1")
		if sent != 1 || spared < 2 {
			t.Errorf("sent %d times, spared %d times", sent, spared)
		}
		// A bad list is sent again, so that what is wrong with it is not forgotten.
		target, tag = "a", `"2"`
		pass(`a:1 line 1: target "a": must have a port from 1 to 65535`)
		if sent < 3 {
			t.Errorf("a bad list was sent %d times", sent-1)
		}
		target, tag = "b:1", `"3"`
		pass("b:1")
	})
}

// TestHTTPSecrets: header fields are sent to the host of the URL only, and are read again for each request.
func TestHTTPSecrets(t *testing.T) {
	var elsewhere atomic.Pointer[http.Request]
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		elsewhere.Store(r)
		answerJSON(w, list("a:1"))
	}))
	defer other.Close()
	var asked atomic.Pointer[http.Request]
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/web" {
			asked.Store(r)
			http.Redirect(w, r, "/here", http.StatusFound)
			return
		}
		if token := r.Header.Get("X-Token"); token == "" {
			t.Error("a redirect to the same host has lost the token")
		}
		http.Redirect(w, r, other.URL, http.StatusFound)
	}))
	defer server.Close()
	token := filepath.Join(t.TempDir(), "token")
	write(t, token, "first\n")
	t.Setenv("TOKEN", "s3cret")
	h := provisioned(t, &HTTP{URL: server.URL + "/web?t=s3cret", Interval: caddy.Duration(time.Second), Headers: http.Header{
		"Authorization": {"{file." + token + "}"}, "X-Token": {"{env.TOKEN}"},
	}})
	waitSays(t, h, "a:1")
	if r := asked.Load(); r.Header.Get("Authorization") != "first" || r.Header.Get("X-Token") != "s3cret" || r.Header.Get("Accept") != "application/json" {
		t.Errorf("asked with %v", r.Header)
	}
	if r := elsewhere.Load(); r.Header.Get("Authorization") != "" || r.Header.Get("X-Token") != "" || r.Header.Get("Referer") != "" {
		t.Errorf("another host was told %v", r.Header)
	}
	write(t, token, "second")
	deadline := time.Now().Add(5 * time.Second)
	for says(t, h); asked.Load().Header.Get("Authorization") != "second"; says(t, h) {
		if time.Now().After(deadline) {
			t.Fatal("the new token is not used")
		}
		time.Sleep(10 * time.Millisecond)
	}
	if err := os.Remove(token); err != nil {
		t.Fatal(err)
	}
	waitSays(t, h, "a:1 dynamic http: header Authorization")
}

func TestBadHTTPSettings(t *testing.T) {
	for settings, want := range map[string]string{
		`{}`:                                "url: missing",
		`{"url": "registry.internal"}`:      "url registry.internal: must be an http:// or https:// URL",
		`{"url": ["http://user:s3cret@a"]}`: "url: must be a text",
		`{"url": "http:///web"}`:            "must be an http:// or https:// URL with a host",
		`{"url": "{env.NOT_SET_ANYWHERE}"}`: "must be an http:// or https:// URL",
		`{"url": "http://user:s3cret@{http.request.host}/?s3cret"}`:         "url http://{http.request.host}/: must have no placeholders",
		`{"url": "http://a", "interval": 0}`:                                "interval 0s: must be from 1s to 1h",
		`{"url": "http://a", "interval": "999ms"}`:                          "interval 999ms: must be from 1s to 1h",
		`{"url": "http://a", "interval": "61m"}`:                            "interval 1h1m: must be from 1s to 1h",
		`{"url": "http://a", "every": "1m"}`:                                `unknown field "every"`,
		`{"url": "http://a", "headers": {"A b": ["s3cret"]}}`:               `header "A b": must be the name`,
		`{"url": "http://a", "headers": {"A": ["s3\ncret"]}}`:               "header A: must have a value",
		`{"url": "http://a", "headers": {"A": [""]}}`:                       "header A: must have a value",
		`{"url": "http://a", "headers": {"A": ["{env.NOT_SET_ANYWHERE}"]}}`: "header A: must have a value",
		`{"url": "http://a", "headers": {"A": ["s3cret {http.x}"]}}`:        "header A: must have no placeholders",
	} {
		h := new(HTTP)
		err := caddy.StrictUnmarshalJSON([]byte(settings), h)
		if err == nil {
			ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
			err = h.Provision(ctx)
			cancel()
		}
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: %v, want %q and no secret", settings, err, want)
		}
	}
}

// TestPlainLogsChanges: for a plain reverse_proxy, the source itself logs errors.
func TestPlainLogsChanges(t *testing.T) {
	core, logs := observer.New(zap.InfoLevel)
	p := plain{logger: zap.New(core), location: "file:web.json"}
	for _, err := range []error{nil, nil, context.Canceled, context.DeadlineExceeded, wrong("a"), wrong("a"), wrong("b"), context.Canceled, nil, nil} {
		p.note(err)
	}
	var got []string
	for _, entry := range logs.All() {
		got = append(got, fmt.Sprint(entry.ContextMap()["error"]))
	}
	if want := "context canceled a b context canceled <nil>"; strings.Join(got, " ") != want {
		t.Errorf("logged %q, want %q", got, want)
	}
}
