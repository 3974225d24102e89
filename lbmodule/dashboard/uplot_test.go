package dashboard

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"testing"
)

// uPlotVersion is the version of uPlot, which draws the page's graphs. static/uplot holds the files of dist in the npm package "uplot",
// and its licence. To update it, copy the files of another version, and change the version, the integrity and the sums here.
const uPlotVersion = "1.6.32" // the package's integrity is sha512-KIMVnG68zvu5XXUbC4LQEPnhwOxBuLyW1AHtpm6IKTXImkbLgkMy+jabjLgSLMasNuGGzQm/ep3tOkyTxpiQIw==

var uPlotSums = map[string]string{
	"uPlot.iife.min.js": "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f",
	"uPlot.min.css":     "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04",
	"uPlot-license.txt": "8f989229699b4fe2f1a0432d0e9edc338a8a911e250e2d1b01ecd770a5f5b1bd",
}

func TestUPlot(t *testing.T) {
	for name, want := range uPlotSums {
		if sum := sha256.Sum256(files[name].content); hex.EncodeToString(sum[:]) != want {
			t.Errorf("%s is not that of version %s: %x", name, uPlotVersion, sum)
		}
	}
	if !strings.HasPrefix(string(files["uPlot.iife.min.js"].content), "/*! https://github.com/leeoniya/uPlot (v"+uPlotVersion+") */") {
		t.Errorf("the script is not of version %s", uPlotVersion)
	}
	if !strings.Contains(string(files["uPlot-license.txt"].content), "The MIT License") {
		t.Error("the licence is missing")
	}
}

// TestPageSize limits the bytes that the page loads, and the lines of its files.
func TestPageSize(t *testing.T) {
	const most, mostLines = 300_000, 500
	all := 0
	for name, f := range files {
		all += len(f.content)
		if _, foreign := uPlotSums[name]; !foreign && strings.Count(string(f.content), "\n") > mostLines {
			t.Errorf("%s has more than %d lines", name, mostLines)
		}
	}
	if t.Logf("%d bytes", all); all > most {
		t.Errorf("the page's files have %d bytes, want %d at most", all, most)
	}
}
