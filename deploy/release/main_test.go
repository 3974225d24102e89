package main

import (
	"archive/zip"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestCheck: what is wrong is said before anything is built.
func TestCheck(t *testing.T) {
	t.Chdir("../..")
	full := t.TempDir()
	if err := os.WriteFile(filepath.Join(full, "caddy"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ version, output, epoch, want string }{
		{"v0.1.0", t.TempDir(), "1700000000", ""},
		{"v0.1.0", filepath.Join(full, "none"), "1700000000", ""},
		{"v0.1.0-rc.1", t.TempDir(), "1700000000", ""},
		{"", t.TempDir(), "1700000000", "must be such as v0.1.0"},
		{"0.1.0", t.TempDir(), "1700000000", "must be such as v0.1.0"},
		{"v0.1", t.TempDir(), "1700000000", "must be such as v0.1.0"},
		{"v0.1.0 -X main.x=y", t.TempDir(), "1700000000", "must be such as v0.1.0"},
		{"v99.0.0", t.TempDir(), "1700000000", "no section for 99.0.0"},
		{"v0.1.0", full, "1700000000", "is not empty"},
		{"v0.1.0", t.TempDir(), "yesterday", "must be seconds since 1970"},
	} {
		t.Setenv("SOURCE_DATE_EPOCH", test.epoch)
		t.Setenv("TZ", "Asia/Tokyo") // and back at the end
		r := release{version: test.version, output: test.output}
		err := r.check()
		if got := err == nil; got != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%+v: %v", test, err)
		}
		if err == nil && r.made.Unix() != 1700000000 {
			t.Errorf("%+v: files are of %v", test, r.made)
		}
	}
}

// TestZip: the order of the files, their time and who may run them are the same whoever packs them.
func TestZip(t *testing.T) {
	folder := t.TempDir()
	for _, name := range []string{"a", "b"} {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	a, b := entry{from: filepath.Join(folder, "a"), to: "caddy.exe", mode: 0o755}, entry{from: filepath.Join(folder, "b"), to: "LICENSE"}
	made := time.Unix(1700000000, 0)
	var packed [2][]byte
	for i, all := range [][]entry{{a, b}, {b, a}} {
		file := filepath.Join(folder, "packed.zip")
		if err := writeZip(file, "ballast", all, made.UTC()); err != nil {
			t.Fatal(err)
		}
		var err error
		if packed[i], err = os.ReadFile(file); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(packed[0], packed[1]) {
		t.Error("the order in which files are named makes a difference")
	}
	archive, err := zip.NewReader(bytes.NewReader(packed[0]), int64(len(packed[0])))
	if err != nil {
		t.Fatal(err)
	}
	if len(archive.File) != 2 || archive.File[0].Name != "ballast/LICENSE" || archive.File[0].Mode() != 0o644 ||
		archive.File[1].Name != "ballast/caddy.exe" || archive.File[1].Mode() != 0o755 || !archive.File[1].Modified.Equal(made) {
		t.Errorf("in the archive: %+v", archive.File)
	}
}

func TestDebianVersion(t *testing.T) {
	for number, want := range map[string]string{"0.1.0": "0.1.0", "0.1.0-rc.1": "0.1.0~rc.1"} {
		if got := debianVersion(number); got != want {
			t.Errorf("%s is %s for Debian, want %s", number, got, want)
		}
	}
}

// TestParseRun: what the Dockerfile says and the image would not have is no secret.
func TestParseRun(t *testing.T) {
	const stage = "FROM golang AS build\nRUN anything\n\nFROM scratch\nCOPY --from=build / /\nUSER 1:2\nENV A=b C=d\nEXPOSE 80 81/udp\nVOLUME /data\nENTRYPOINT [\"/caddy\"]\nCMD [\"run\"]\n"
	r, err := parseRun(stage)
	if got := fmt.Sprint(r, err); got != "{[A=b C=d] [80 81/udp] [/data] [/caddy] [run] 1:2} <nil>" {
		t.Error(got)
	}
	for _, wrong := range []string{stage + "STOPSIGNAL SIGQUIT\n", stage + "CMD run\n", "FROM caddy\n"} {
		if _, err := parseRun(wrong); err == nil {
			t.Errorf("%q is no mistake", wrong)
		}
	}
	for _, user := range []string{"", "caddy", "1", "1:caddy"} {
		if _, _, err := (runs{user: user}).ids(); err == nil {
			t.Errorf("USER %q is no mistake", user)
		}
	}
}
