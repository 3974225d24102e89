package command

import (
	"encoding/json"
	"net/http"
	"runtime/debug"
	"strings"
	"testing"
)

// TestMisuse checks that wrong usage is reported in one line that names it, before a request is sent.
func TestMisuse(t *testing.T) {
	for _, test := range []struct{ command, err string }{
		{"bakends", "unknown command bakends; did you mean backends?"},
		{"bakends --wide", "unknown command bakends; did you mean backends?"},
		{"delete", "unknown command delete; did you mean remove?"},
		{"help bakends", "unknown command bakends; did you mean backends?"},
		{"nothing", "unknown command nothing; see 'caddy lb --help'"},
		{"--nothing", "--nothing: is not a flag of this command; see 'caddy lb --help'"},
		{"drain b --for 1x", "--for 1x: must be a duration above 0, such as 90s, 30m or 12h; see 'caddy lb drain --help'"},
		{"drain b --for -5m", "--for -5m: must be a duration above 0, such as 90s, 30m or 12h; see 'caddy lb drain --help'"},
		{"drain b --until tomorrow", "--until tomorrow: must be a time with its zone, such as 2026-01-02T15:04:05Z or 2026-01-02T15:04:05+01:00; see 'caddy lb drain --help'"},
		{"drain b --for", "--for: must have a value; see 'caddy lb drain --help'"},
		{"drain b --for 1m --until 2026-01-02T15:04:05Z", "--for: must not be combined with --until"},
		{"drain b --wait --timeout 5", "--timeout 5: must be a duration, such as 30s or 5m; see 'caddy lb drain --help'"},
		{"drain b --sync=maybe", "--sync maybe: must be true or false; see 'caddy lb drain --help'"},
		{"add 10.0.0.4:80 --weight many", "--weight many: must be a whole number; see 'caddy lb add --help'"},
		{"add 10.0.0.4:80 --max-requests many", "--max-requests many: must be a whole number, or auto; see 'caddy lb add --help'"},
		{"simulate --rate fast", "--rate fast: must be a number; see 'caddy lb simulate --help'"},
		{"explain --key a --request b", "--key: must not be combined with --request"},
		{"drain a b c", "wrong number of arguments; usage: caddy lb drain [<pool>] <backend>"},
		{"pools -x", "unknown shorthand flag: 'x' in -x; see 'caddy lb pools --help'"},
	} {
		for _, form := range []struct{ flag, err string }{{"", "Error: " + test.err + "\n"}, {" --json", object(t, "error", test.err)}} {
			if form.flag != "" && strings.HasSuffix(test.command, "--for") {
				continue // it would take the flag for its value
			}
			f := onePool(t, nil)
			got := f.run(strings.Fields(test.command + form.flag)...)
			if strings.HasSuffix(test.command, "--for") {
				got = runCommand(t, console{in: strings.NewReader("")}, strings.Fields(test.command)...)
			}
			if got.code != exitFailed || got.err != form.err || got.out != "" {
				t.Errorf("%s%s: exit code %d; %q, want %q; %q", test.command, form.flag, got.code, got.err, form.err, got.out)
			}
			if len(f.origins) > 0 {
				t.Errorf("%s: something was asked", test.command)
			}
		}
	}
}

func object(t *testing.T, field, text string) string {
	t.Helper()
	encoded, err := json.Marshal(map[string]string{field: text})
	if err != nil {
		t.Fatal(err)
	}
	return string(encoded) + "\n"
}

func TestHelp(t *testing.T) {
	for command, want := range map[string]string{"": "Available Commands:", "help": "Available Commands:", "help drain": "caddy lb drain [<pool>] <backend>", "drain --help": "--wait"} {
		got := runCommand(t, console{}, strings.Fields(command)...)
		if got.code != 0 || got.err != "" || !strings.Contains(got.out, want) {
			t.Errorf("%q: exit code %d, %q, and no %q in\n%s", command, got.code, got.err, want, got.out)
		}
	}
}

// TestJSONErrors checks errors and warnings with --json: an object a line, and the same exit codes.
func TestJSONErrors(t *testing.T) {
	f := onePool(t, map[string]reply{
		"PATCH " + backends + "/b": {http.StatusPreconditionFailed, `{"error":"it has \"changed\" \u009b31m"}`},
		"POST " + backends:         {body: strings.TrimSuffix(backendB, "}") + `,"persisted":false}`},
	})
	for _, test := range []struct {
		command string
		code    int
		err     string
	}{
		{"drain b --yes --json", exitConflict, `{"error":"it has \"changed\" \u009b31m"}`},
		{"drain b --yes --json=true", exitConflict, `{"error":"it has \"changed\" \u009b31m"}`},
		{"pools none --json", exitNotFound, `{"error":"/load_balancer/pools/none: not found"}`},
		{"remove b --json", exitFailed, `{"error":"remove b of pool web (1 in flight): needs confirmation, but there is no terminal; use --yes"}`},
		{"add 10.0.0.9:80 --json", 0, `{"warning":"the change is in effect, but not yet stored: it might be lost at a restart"}`},
		{"pools none --json=false", exitNotFound, "Error: /load_balancer/pools/none: not found"},
	} {
		got := f.run(strings.Fields(test.command)...)
		if got.code != test.code || strings.TrimSpace(got.err) != test.err {
			t.Errorf("%s: exit code %d, want %d; %s, want %s", test.command, got.code, test.code, got.err, test.err)
		}
	}
	f.server.Close()
	if got := f.run("pools", "--json"); got.code != exitUnreachable || !strings.HasPrefix(got.err, `{"error":"cannot reach Caddy's admin endpoint`) {
		t.Errorf("%+v", got)
	}
}

func TestVersion(t *testing.T) {
	before := Version
	t.Cleanup(func() { Version = before })
	Version = "v1.2.3"
	got := runCommand(t, console{}, "version")
	if first, second, _ := strings.Cut(got.out, "\n"); got.code != 0 || first != "Ballast v1.2.3" || !strings.HasPrefix(second, "Caddy ") {
		t.Errorf("%+v", got)
	}
	got = runCommand(t, console{}, "version", "--json")
	var versions struct{ Ballast, Caddy string }
	if err := json.Unmarshal([]byte(got.out), &versions); err != nil || versions.Ballast != "v1.2.3" || versions.Caddy == "" {
		t.Errorf("%v, %+v", err, got)
	}

	caddy := &debug.Module{Path: "github.com/caddyserver/caddy/v2", Version: "v2.11.9"}
	for _, test := range []struct {
		name string
		info *debug.BuildInfo
		want string
	}{
		{"nothing known", nil, ""},
		{"not in it", &debug.BuildInfo{Deps: []*debug.Module{caddy}}, ""},
		{"the program itself", &debug.BuildInfo{Main: debug.Module{Path: modulePath, Version: "(devel)"}, Deps: []*debug.Module{caddy}}, "(devel)"},
		{"built in by xcaddy", &debug.BuildInfo{Main: debug.Module{Path: "caddy"}, Deps: []*debug.Module{caddy, {Path: modulePath, Version: "v0.9.0"}}}, "v0.9.0"},
		{"from a folder", &debug.BuildInfo{Deps: []*debug.Module{{Path: modulePath, Version: "v0.9.0", Replace: &debug.Module{Path: "../ballast"}}}}, "v0.9.0 replaced by ../ballast"},
		{"from a fork", &debug.BuildInfo{Deps: []*debug.Module{{Path: modulePath, Version: "v0.9.0", Replace: &debug.Module{Path: "example.com/fork", Version: "v0.9.1"}}}}, "v0.9.1"},
	} {
		if got := versionIn(test.info); got != test.want {
			t.Errorf("%s: %q, want %q", test.name, got, test.want)
		}
	}
}
