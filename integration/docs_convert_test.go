package integration

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/ballastlb/ballast/command/convert"
)

// checkHAProxy has HAProxy check the piece of a configuration, and converts it: nothing may be left.
func checkHAProxy(t *testing.T, s snippet) {
	text := "defaults\n\tmode http\n\ttimeout connect 3s\n\ttimeout client 30s\n\ttimeout server 30s\n" + s.code
	if !regexp.MustCompile(`(?m)^(frontend|listen)`).MatchString(s.code) {
		text += "frontend site\n\tbind 127.0.0.1:8080\n\tdefault_backend web\n"
	}
	if !strings.Contains("\n"+s.code, "\nbackend web") && strings.Contains(text, "default_backend web") {
		text += "backend web\n\tserver a 10.0.0.1:8080\n"
	}
	if program, err := exec.LookPath("haproxy"); err != nil {
		t.Error("no haproxy; .ci/deps installs it")
	} else if out, err := exec.CommandContext(t.Context(), program, "-c", "-f", inFile(t, "haproxy.cfg", text)).CombinedOutput(); err != nil {
		t.Errorf("haproxy: %v\n%s\n%s", err, out, text)
	}
	checkConverted(t, "haproxy.cfg", text, convert.HAProxy)
}

// checkNginx has nginx check the piece of a configuration, and converts it: nothing may be left.
func checkNginx(t *testing.T, s snippet) {
	text := s.code
	if !strings.Contains(text, "server {") {
		text += "server {\n\tlisten 8080;\n\tlocation / {\n\t\tproxy_pass http://web;\n\t}\n}\n"
	}
	if program, err := exec.LookPath("nginx"); err != nil {
		t.Error("no nginx; .ci/deps installs it")
	} else {
		dir := t.TempDir()
		around := "error_log stderr;\n" + nginxHTTP
		file := filepath.Join(dir, "nginx.conf")
		if err := os.WriteFile(file, []byte(around+text+"}\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.CommandContext(t.Context(), program, "-t", "-e", "stderr", "-p", dir, "-c", file).CombinedOutput(); err != nil {
			t.Errorf("nginx: %v\n%s\n%s", err, out, text)
		}
	}
	checkConverted(t, "nginx.conf", text, convert.Nginx)
}

// checkConverted converts a configuration and has Caddy adapt what comes out.
func checkConverted(t *testing.T, name, text, from string) {
	t.Helper()
	r, err := convert.Convert(name, text, from)
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	if len(r.Left) > 0 {
		t.Errorf("left: %+v\n%s", r.Left, r.Caddyfile)
	}
	if out, err := runCaddy(t, r.Caddyfile, "adapt"); err != nil {
		t.Errorf("%v\n%s\n%s", err, out, r.Caddyfile)
	}
}

// TestConvertCommand converts by the program itself: its exit code says whether all was understood.
func TestConvertCommand(t *testing.T) {
	whole := inFile(t, "whole.cfg", "defaults\n\tmode http\nlisten site\n\tbind :8080\n\tserver a 10.0.0.1:8080\n")
	partly := inFile(t, "partly.conf", "server {\n\tfrobnicate on;\n\tlocation / {\n\t\tproxy_pass http://10.0.0.1;\n\t}\n}\n")
	for _, test := range []struct {
		file, summary string
		code          int
	}{
		{whole, "understood 5 of 5 lines; 0 left as comments", 0},
		{partly, "understood 3 of 4 lines; 1 left as comments", 9},
	} {
		out := filepath.Join(t.TempDir(), "Caddyfile")
		cmd := exec.CommandContext(t.Context(), caddyBinary, "lb", "convert", test.file, "--out", out)
		said, _ := cmd.CombinedOutput()
		if code := cmd.ProcessState.ExitCode(); code != test.code || strings.TrimSpace(string(said)) != test.summary {
			t.Errorf("%s: exit code %d, want %d: %s", test.file, code, test.code, said)
		}
		if said, err := runCaddy(t, read(t, out), "adapt"); err != nil {
			t.Errorf("%s: %v\n%s", test.file, err, said)
		}
		// What is there is not written over.
		again := exec.CommandContext(t.Context(), caddyBinary, "lb", "convert", test.file, "--out", out)
		if said, _ := again.CombinedOutput(); again.ProcessState.ExitCode() != 1 || !strings.Contains(string(said), "exists already") {
			t.Errorf("%s: exit code %d: %s", test.file, again.ProcessState.ExitCode(), said)
		}
	}
}
