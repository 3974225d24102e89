package convert_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/ballastlb/ballast/caddyfile"
	"github.com/ballastlb/ballast/command/convert"
	_ "github.com/ballastlb/ballast/listener"
)

var update = flag.Bool("update", false, "write what the inputs are converted to")

// adapt adapts a Caddyfile with Caddy, and returns its error or warnings.
func adapt(text string) error {
	_, warnings, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(text), nil)
	if err == nil && len(warnings) > 0 {
		err = fmt.Errorf("warnings: %v", warnings)
	}
	return err
}

func must(t *testing.T, file, text, from string) *convert.Result {
	t.Helper()
	r, err := convert.Convert(file, text, from)
	if err != nil {
		t.Fatal(err)
	}
	if err := adapt(r.Caddyfile); err != nil {
		t.Errorf("does not adapt: %v\n%s", err, r.Caddyfile)
	}
	checkSaid(t, r)
	return r
}

// checkSaid checks that the output has a comment for each line that was left, and that the counts are right.
func checkSaid(t *testing.T, r *convert.Result) {
	t.Helper()
	if r.Understood+len(r.Left) != r.Lines || r.Nearly > r.Understood {
		t.Errorf("%d of %d lines understood, %d nearly, %d left", r.Understood, r.Lines, r.Nearly, len(r.Left))
	}
	for _, l := range r.Left {
		if len(l.Reasons) == 0 || !strings.Contains(r.Caddyfile, fmt.Sprintf(":%d: not converted: ", l.Line)) {
			t.Errorf("line %d, %s, is left without a comment or a reason: %v\n%s", l.Line, l.Text, l.Reasons, r.Caddyfile)
		}
	}
}

// TestGolden compares the results for whole configurations.
func TestGolden(t *testing.T) {
	t.Setenv("API_HOST", "10.0.2.1")
	for name, from := range map[string]string{"haproxy.cfg": convert.HAProxy, "nginx.conf": convert.Nginx} {
		t.Run(name, func(t *testing.T) {
			text, err := os.ReadFile(filepath.Join("testdata", name))
			if err != nil {
				t.Fatal(err)
			}
			if got := convert.Detect(string(text)); got != from {
				t.Errorf("it is detected as %q", got)
			}
			r := must(t, name, string(text), from)
			if again := must(t, name, string(text), from); again.Caddyfile != r.Caddyfile {
				t.Errorf("it is converted differently each time:\n%s\n%s", r.Caddyfile, again.Caddyfile)
			}
			file := filepath.Join("testdata", strings.TrimSuffix(name, filepath.Ext(name))+".caddyfile")
			if *update {
				if err := os.WriteFile(file, []byte(r.Caddyfile), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if string(want) != r.Caddyfile {
				t.Errorf("got\n%s\nwant\n%s", r.Caddyfile, want)
			}
		})
	}
}

func TestRefuses(t *testing.T) {
	for _, test := range []struct{ text, from, want string }{
		{"", convert.HAProxy, "has no lines with an effect"},
		{"# nothing", convert.Nginx, "has no lines with an effect"},
		{"http {", convert.Nginx, "x:1: the block of http does not end"},
		{"}", convert.Nginx, "x:1: a closing brace too many"},
		{"a\n\"b", convert.Nginx, "x:2: a quote does not end"},
		{"a", convert.Nginx, "x:1: a does not end"},
		{"a { b }", convert.Nginx, "x:1: b does not end in ;"},
		{strings.Repeat("a {", 50), convert.Nginx, "blocks are too deep"},
		{"global", "traefik", "from traefik: must be haproxy or nginx"},
		{strings.Repeat("#", convert.MaxSize+1), convert.HAProxy, "must have at most"},
	} {
		if r, err := convert.Convert("x", test.text, test.from); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%.20q: %v, %v, want %q", test.text, r, err, test.want)
		}
	}
}

func FuzzHAProxy(f *testing.F) { fuzz(f, convert.HAProxy, "haproxy.cfg", "defaults\nmode http\n") }
func FuzzNginx(f *testing.F)   { fuzz(f, convert.Nginx, "nginx.conf", "") }

// fuzz converts texts. The conversion must not panic, and its result must be a valid Caddyfile, the same each time, with all lines left.
func fuzz(f *testing.F, from, name, before string) {
	text, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(text))
	f.Add(strings.Replace(inSplit, "%s", "split_clients $remote_addr $v { 5% b; * a; }", 1))
	f.Fuzz(func(t *testing.T, text string) {
		if len(text) > 8192 {
			return
		}
		r, err := convert.Convert("x", before+text, from)
		if err != nil {
			return
		}
		checkSaid(t, r)
		if again, err := convert.Convert("x", before+text, from); err != nil || again.Caddyfile != r.Caddyfile {
			t.Fatalf("%q is converted to\n%s\nand then to\n%s", text, r.Caddyfile, again.Caddyfile)
		}
		if strings.Contains(text, "$") && from == convert.HAProxy {
			// Without the value of an environment variable, the Caddyfile may be invalid.
			if _, err := caddyfile.Parse("x", []byte(r.Caddyfile)); err != nil && !strings.Contains(r.Caddyfile, "{$") {
				t.Fatalf("%q is converted to an invalid Caddyfile: %v\n%s", text, err, r.Caddyfile)
			}
			return
		}
		if err := adapt(r.Caddyfile); err != nil {
			t.Fatalf("%q is converted to a Caddyfile that does not adapt: %v\n%s", text, err, r.Caddyfile)
		}
	})
}
