package discovery

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// provisioned provisions a source until the test ends.
func provisioned[S caddy.Provisioner](t *testing.T, s S) S {
	t.Helper()
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	t.Cleanup(cancel)
	if err := s.Provision(ctx); err != nil {
		t.Fatal(err)
	}
	return s
}

// says is what a source says now: the addresses of its last good list and what is wrong.
func says(t *testing.T, s Source) string {
	t.Helper()
	list, err := s.List(t.Context())
	var words []string
	if list != nil {
		for _, b := range list.Backends {
			words = append(words, b.Address)
		}
	}
	if err != nil {
		words = append(words, err.Error())
	}
	return strings.Join(words, " ")
}

// waitSays waits until a source says something, for twice as long as a change of a file may take at most.
func waitSays(t *testing.T, s Source, want string) (took time.Duration) {
	t.Helper()
	start := time.Now()
	for {
		got := says(t, s)
		took = time.Since(start)
		if strings.Contains(got, want) {
			return took
		}
		if took > 4*time.Second {
			t.Fatalf("says %q, want %q", got, want)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// list is a list of targets in JSON.
func list(targets ...string) string {
	return `[{"targets": ["` + strings.Join(targets, `", "`) + `"]}]`
}

// TestFile changes a file in all the ways that tools do. Each change is seen within two seconds, and what is bad changes nothing.
func TestFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "web.json")
	f := provisioned(t, &File{Path: path})
	if got := says(t, f); got != "cannot be read: no such file or directory" {
		t.Errorf("without a file: %s", got)
	}
	seen := func(want string) {
		t.Helper()
		if took := waitSays(t, f, want); took > 2*time.Second {
			t.Errorf("%q was seen after %v, want 2s at most", want, took)
		}
	}
	write(t, path, list("a:1"))
	seen("a:1")
	write(t, path, list("b:1")) // as long as before
	seen("b:1")

	other := filepath.Join(dir, "new")
	write(t, other, list("c:1"))
	if err := os.Rename(other, path); err != nil {
		t.Fatal(err)
	}
	seen("c:1")

	write(t, path, list("d:1")[:10])
	seen("c:1 line 1: byte 10: must be JSON: unexpected end")
	write(t, path, "")
	seen("c:1 must be a JSON list, and is empty")
	write(t, path, "[]")
	seen("c:1 names no target")
	write(t, path, `[{"targets": ["d:1"], "labels": {"weight": "x"}}]`)
	seen(`c:1 line 1: target d:1: label weight "x"`)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	seen("c:1 cannot be read: no such file")
	if err := os.Mkdir(path, 0o755); err != nil {
		t.Fatal(err)
	}
	seen("c:1 must be a file")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	// What was there before is read as well when it is there again.
	write(t, path, "[]")
	seen("c:1 names no target")
	write(t, path, list("e:1"))
	seen("e:1")
	before, _ := f.List(t.Context())
	parsed := 0
	f.parse = func(text []byte) (*List, error) { parsed++; return Parse(text) }
	write(t, path, strings.ReplaceAll(list("e:1"), " ", "\n"))
	for deadline := time.Now().Add(4 * time.Second); parsed == 0; time.Sleep(10 * time.Millisecond) {
		if says(t, f); time.Now().After(deadline) {
			t.Fatal("the file has not been read again")
		}
	}
	if after, err := f.List(t.Context()); err != nil || after != before {
		t.Errorf("the same list written in another way is another one: %v", err)
	}
}

// TestFileOfConfigMap changes a file as Kubernetes does: it swaps a link to the folder that holds it.
func TestFileOfConfigMap(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	version := func(name, target string) {
		t.Helper()
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, name, "web.yaml"), "- targets: ['"+target+"']\n")
		// All files of a version are written at the same second.
		old := time.Now().Add(-time.Hour).Truncate(time.Hour)
		if err := os.Chtimes(filepath.Join(dir, name, "web.yaml"), old, old); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(name, filepath.Join(dir, "..data_tmp")); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")); err != nil {
			t.Fatal(err)
		}
	}
	version("..1", "a:1")
	if err := os.Symlink(filepath.Join("..data", "web.yaml"), filepath.Join(dir, "web.yaml")); err != nil {
		t.Fatal(err)
	}
	f := provisioned(t, &File{Path: filepath.Join(dir, "web.yaml")})
	waitSays(t, f, "a:1")
	version("..2", "b:1") // of the same size and time
	if took := waitSays(t, f, "b:1"); took > 2*time.Second {
		t.Errorf("seen after %v", took)
	}
}

// TestFileIsNotReadHalfWritten: YAML that is cut can be a list that is valid and shorter. The file is written and looked at at different moments
// of virtual time, so that its time stamp can be set to that.
func TestFileIsNotReadHalfWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "web.yaml")
		const targets, versions, pause, rest = 40, 18, 5 * time.Millisecond, 1500 * time.Millisecond // so that some versions are looked at while they are written
		written := func(text string) {
			write(t, path, text)
			if err := os.Chtimes(path, time.Now(), time.Now()); err != nil {
				t.Error(err)
			}
		}
		version := func(n int) (lines []string) {
			for i := range targets {
				lines = append(lines, fmt.Sprintf("- targets: [v%d-h%d:1]\n", n, i))
			}
			return lines
		}
		written(strings.Join(version(0), ""))
		f := provisioned(t, &File{Path: path})
		says(t, f)
		go func() {
			time.Sleep(time.Millisecond) // the file is looked at at whole multiples of 10 ms
			for n := 1; n <= versions; n++ {
				for i, lines := 1, version(n); i <= targets; i++ {
					written(strings.Join(lines[:i], ""))
					time.Sleep(pause)
				}
				time.Sleep(rest)
			}
		}()
		var seen []string // the first target of each list
		for range 3200 {
			list, err := f.List(t.Context())
			if err != nil || len(list.Backends) != targets {
				t.Fatalf("%d backends, %v", len(list.Backends), err)
			}
			if first := list.Backends[0].Address; len(seen) == 0 || seen[len(seen)-1] != first {
				seen = append(seen, first)
			}
			time.Sleep(10 * time.Millisecond)
		}
		if len(seen) != versions+1 {
			t.Errorf("lists that begin with %v, want one of each of %d versions", seen, versions+1)
		}
	})
}

// TestFileIsReadWhenItChanges: an unchanged file is not read again.
func TestFileIsReadWhenItChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "web.json")
		write(t, path, list("a:1"))
		// The time of the file is outside of this test's.
		if err := os.Chtimes(path, time.Now().Add(-time.Hour), time.Now().Add(-time.Hour)); err != nil {
			t.Fatal(err)
		}
		f := provisioned(t, &File{Path: path})
		read := 0
		f.parse = func(text []byte) (*List, error) { read++; return Parse(text) }
		for range 100 {
			if got := says(t, f); got != "a:1" {
				t.Fatal(got)
			}
			time.Sleep(100 * time.Millisecond)
		}
		if read != 1 || f.stamp == nil {
			t.Errorf("read %d times in ten seconds, want once", read)
		}
		// One whose time is that of its last change, and cannot be told from that of the next, is read, but not parsed.
		if err := os.Chtimes(path, time.Now(), time.Now()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(lookInterval)
		if says(t, f); f.stamp != nil || read != 1 {
			t.Errorf("a file that has just been touched is settled: %v, and was parsed %d times", f.stamp, read)
		}
		time.Sleep(coarsest)
		if says(t, f); f.stamp == nil || read != 1 {
			t.Errorf("a file that nobody touches is not settled, and was parsed %d times", read)
		}
	})
}

// A plain reverse_proxy gets addresses and caps, in upstreams of its own for each request.
func TestFileForReverseProxy(t *testing.T) {
	t.Setenv("LISTS", t.TempDir())
	f := provisioned(t, &File{Path: "{env.LISTS}/web.json"})
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	if all, err := f.GetUpstreams(r); err == nil {
		t.Errorf("without a file: %v", all)
	}
	write(t, filepath.Join(os.Getenv("LISTS"), "web.json"), `[{"targets": ["a:1"], "labels": {"max_requests": "5", "weight": "3"}}]`)
	waitSays(t, f, "a:1")
	first, err := f.GetUpstreams(r)
	if err != nil || len(first) != 1 || first[0].Dial != "a:1" || first[0].MaxRequests != 5 {
		t.Fatalf("%v, %v", first, err)
	}
	if second, _ := f.GetUpstreams(r); second[0] == first[0] {
		t.Error("two requests share an upstream")
	}
}

func TestBadFileSettings(t *testing.T) {
	t.Setenv("SUFFIX", "txt")
	for path, want := range map[string]string{
		"":                             "path: missing",
		"{env.NOT_SET_ANYWHERE}":       "path: must not be empty",
		"{http.request.host}.json":     "must have no placeholders except those of the environment",
		"web.{env.SUFFIX}":             "path web.txt: must end in .json, .yml or .yaml",
		"/etc/{env.SUFFIX}/*.json":     "must be one file",
		"/etc/caddy/web.json.disabled": "must end in",
	} {
		ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
		if err := (&File{Path: path}).Provision(ctx); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", path, err, want)
		}
		cancel()
	}
}
