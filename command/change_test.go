package command

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
)

func TestChanges(t *testing.T) {
	const (
		toA = " " + backends + "/10.0.0.1:8080"
		toB = " " + backends + "/b"
		to  = " " + backends
	)
	signed := fmt.Sprintf(`"owner":"%s"`, owner(t))
	for _, test := range []struct{ command, sent, out string }{
		{"drain b", `PATCH` + toB + ` {` + signed + `,"state":"drain"}`, "b in pool web: drain, weight 0/3, 1/9 in flight; draining; set by eve@ops: evil?[31m (4m59s left)"},
		{"drain [::1]:8080 --for 30m --reason why_not", `PATCH` + toB + ` {"for":"30m",` + signed + `,"reason":"why not","state":"drain"}`, ""},
		{"drain web b --until 2026-01-02T15:09:04Z --owner bob", `PATCH` + toB + ` {"owner":"bob","state":"drain","until":"2026-01-02T15:09:04Z"}`, ""},
		{`drain web b --if-match "x" --sync`, `PATCH` + toB + `?sync=1 If-Match: "x" {` + signed + `,"state":"drain"}`, ""},
		{"drain 10.0.0.1:8080 --yes", `PATCH` + toA + ` {` + signed + `,"state":"drain"}`, "10.0.0.1:8080 in pool web: up, weight 1, 4 in flight"},
		{"ready b", `PATCH` + toB + ` {` + signed + `,"state":"ready"}`, ""},
		{"maintenance web b --yes --for 1h", `PATCH` + toB + ` {"for":"1h",` + signed + `,"state":"maintenance"}`, ""},
		{"weight b 5", `PATCH` + toB + ` {` + signed + `,"weight":5}`, ""},
		{"weight b 0 --for 10m", `PATCH` + toB + ` {"for":"10m",` + signed + `,"weight":0}`, ""},
		{"weight web b config", `PATCH` + toB + ` {` + signed + `,"weight":null}`, ""},
		{"weight 10.0.0.1:8080 0 --yes", `PATCH` + toA + ` {` + signed + `,"weight":0}`, ""},
		{"drain b --json", `PATCH` + toB + ` {` + signed + `,"state":"drain"}`, backendB},
		{"add [::2]:80", `POST` + to + ` {"address":"[::2]:80",` + signed + `}`, ""},
		{"add web 10.0.0.4:80 --name d --weight 0 --max-requests 7 --backup --zone eu --reason sale --for 2h --sync --if-match x",
			`POST` + to + `?sync=1 If-Match: x {"address":"10.0.0.4:80","backup":1,"for":"2h","max_requests":7,"name":"d",` + signed + `,"reason":"sale","weight":0,"zone":"eu"}`, ""},
		{"add 10.0.0.4:80 --max-requests auto", `POST` + to + ` {"address":"10.0.0.4:80","max_requests":"auto",` + signed + `}`, ""},
		{"reset b --yes", `POST` + toB + `/reset`, ""},
		{"remove 10.0.0.1:8080 --yes", `DELETE` + toA + ` {` + signed + `}`, "10.0.0.1:8080 in pool web: removed"},
		{"remove b --yes --force --sync --if-match x --reason moved", `DELETE` + toB + `?force=1&sync=1 If-Match: x {` + signed + `,"reason":"moved"}`, ""},
		{"limits login 2001:db8::/64 --forget", "DELETE /load_balancer/rate_limits/login/2001:db8::%2F64", "login 2001:db8::/64: forgotten"},
		{"limits login --forget --yes", "DELETE /load_balancer/rate_limits/login", "login: forgotten"},
	} {
		request := strings.Join(strings.Fields(test.sent)[:2], " ")
		answer := reply{body: backendB}
		switch {
		case strings.HasPrefix(request, "POST") && !strings.HasSuffix(request, "reset"):
			answer.status = http.StatusCreated
		case strings.HasPrefix(request, "DELETE") && strings.Contains(request, "/b?"):
			answer.status = http.StatusAccepted
		case strings.HasPrefix(request, "DELETE"):
			answer = reply{status: http.StatusNoContent}
		case strings.HasSuffix(request, "10.0.0.1:8080"):
			answer.body = backendA
		}
		f := onePool(t, map[string]reply{request: answer})
		args := strings.Fields(test.command)
		for i := range args {
			args[i] = strings.ReplaceAll(args[i], "why_not", "why not")
		}
		got := f.run(args...)
		if got.code != 0 || got.err != "" {
			t.Errorf("%s: exit code %d: %s", test.command, got.code, got.err)
		}
		lines(t, test.command+" sent", f.changes(), test.sent)
		if test.out != "" {
			lines(t, test.command, got.out, test.out)
		}
		if strings.TrimSpace(got.out) == "" {
			t.Errorf("%s says nothing", test.command)
		}
	}
}

func TestConfirmation(t *testing.T) {
	for _, test := range []struct{ command, question string }{
		{"remove b", "remove b of pool web (1 in flight)"},
		{"remove 10.0.0.1:8080", "remove 10.0.0.1:8080 of pool web (4 in flight), its last usable backend"},
		{"remove none", "remove none of pool web"},
		{"maintenance b", "put b of pool web into maintenance (1 in flight)"},
		{"reset b", "reset b of pool web (1 in flight)"},
		{"drain 10.0.0.1:8080", "drain 10.0.0.1:8080 of pool web (4 in flight), its last usable backend"},
		{"weight 10.0.0.1:8080 0", "give 10.0.0.1:8080 of pool web weight 0 (4 in flight), its last usable backend"},
		{"limits login --forget", "give all keys of zone login their tokens back"},
	} {
		f := onePool(t, nil)
		args := strings.Fields(test.command)
		if got := f.run(args...); got.code != exitFailed || got.err != "Error: "+test.question+": needs confirmation, but there is no terminal; use --yes\n" {
			t.Errorf("%s without a terminal: %+v", test.command, got)
		}
		for _, no := range []string{"n\n", "\n", "", "yesterday\n"} {
			if got := f.answer(no, args...); got.code != exitFailed || got.err != test.question+"? [y/N] Error: not confirmed; nothing was changed\n" {
				t.Errorf("%s answered %q: %+v", test.command, no, got)
			}
		}
		if changed := f.changes(); changed != "" {
			t.Errorf("%s changed something: %s", test.command, changed)
		}
		// What follows is refused by this server: it is about being asked.
		for _, yes := range []string{"y\n", "YES\n", "y"} {
			if got := f.answer(yes, args...); got.code != exitNotFound {
				t.Errorf("%s answered %q: %+v", test.command, yes, got)
			}
		}
		if n := strings.Count(f.changes(), "\n") + 1; n != 3 {
			t.Errorf("%s: %d changes, want 3", test.command, n)
		}
	}
}

// TestNotStored asks for a change that is to be stored, and is not.
func TestNotStored(t *testing.T) {
	lost := strings.TrimSuffix(backendB, "}") + `,"persisted":false}`
	f := onePool(t, map[string]reply{"PATCH " + backends + "/b?sync=1": {body: lost}, "PATCH " + backends + "/b": {body: lost}})
	for _, args := range [][]string{{"ready", "b", "--sync"}, {"ready", "b", "--sync", "--json"}} {
		got := f.run(args...)
		if got.code != exitRefused || !strings.Contains(got.err, "the change is in effect, but could not be stored: it will be lost at a restart") || got.out == "" {
			t.Errorf("%v: %+v", args, got)
		}
	}
	const gone = `{"address":"b:1","name":"b","removed":true,"persisted":false}`
	removing := onePool(t, map[string]reply{"DELETE " + backends + "/b?sync=1": {body: gone}, "DELETE " + backends + "/b": {body: gone}})
	if got := removing.run("remove", "b", "--yes", "--sync"); got.code != exitRefused || got.out != "b in pool web: removed\n" {
		t.Errorf("a removal: %+v", got)
	}
	if got := removing.run("remove", "b", "--yes"); got.code != 0 || !strings.HasPrefix(got.err, "Warning: ") {
		t.Errorf("a removal without --sync: %+v", got)
	}
	if got := f.run("ready", "b"); got.code != 0 || got.err != "Warning: the change is in effect, but not yet stored: it might be lost at a restart\n" {
		t.Errorf("without --sync: %+v", got)
	}
}

func TestWait(t *testing.T) {
	const look = "GET " + backends + "/b"
	busy, idle := reply{body: backendB}, reply{body: strings.Replace(backendB, `"in_flight":1`, `"in_flight":0`, 1)}
	leaving := reply{body: strings.TrimSuffix(backendB, "}") + `,"removing":true}`}
	ready := reply{body: strings.Replace(backendB, `"drain"`, `"ready"`, 1)}
	gone := reply{http.StatusNotFound, `{"error":"backend b: not found"}`}
	for _, test := range []struct {
		name, command string
		looks         []reply
		code          int
		err           string
	}{
		{"until idle", "drain b --wait", []reply{busy, busy, idle}, 0, ""},
		{"it was removed meanwhile", "drain b --wait", []reply{busy, gone}, 0, ""},
		{"it was made ready meanwhile", "drain b --wait", []reply{busy, ready}, exitConflict, "Error: b in pool web: it was made ready while it drained\n"},
		{"for too long", "drain b --wait --timeout 500ms", []reply{busy}, exitTimeout, "Error: b in pool web: 1 in flight after 500ms\n"},
		{"the server refuses", "drain b --wait", []reply{busy, {500, `{"error":"broken"}`}}, exitRefused, "Error: broken\n"},
		{"until gone", "remove b --yes --wait", []reply{leaving, leaving, gone}, 0, ""},
		{"it was added again", "remove b --yes --wait", []reply{leaving, busy}, exitConflict, "Error: b in pool web: it was added again while it was removed\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := onePool(t, map[string]reply{"PATCH " + backends + "/b": busy, "DELETE " + backends + "/b": {http.StatusAccepted, leaving.body}})
			f.replies[look] = test.looks
			got := f.run(strings.Fields(test.command)...)
			if got.code != test.code || got.err != test.err {
				t.Errorf("%+v", got)
			}
			if left := len(f.replies[look]); left != 1 {
				t.Errorf("%d looks were not made", left-1)
			}
		})
	}
}
