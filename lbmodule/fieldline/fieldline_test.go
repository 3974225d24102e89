package fieldline_test

import (
	"net/textproto"
	"strings"
	"testing"

	"golang.org/x/net/http/httpguts"

	"github.com/ballastlb/ballast/lbmodule/fieldline"
)

// TestNameBytes: each byte at each place, as httpguts and textproto see it.
func TestNameBytes(t *testing.T) {
	for c := range 256 {
		for at := range 12 {
			text := []byte("Ab-cD_e.F-9z")
			text[at] = byte(c)
			checkName(t, text)
		}
	}
}

func FuzzName(f *testing.F) {
	for _, seed := range []string{"", "Host", "x-forwarded-for", "X_a", "-", "--a-B", "a b", "é", "Content-Length: 5"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) { checkName(t, []byte(text)) })
}

func checkName(t *testing.T, text []byte) {
	t.Helper()
	want := 0
	for want < len(text) && httpguts.ValidHeaderFieldName(string(text[want:want+1])) {
		want++
	}
	n, canonical, aliased := fieldline.Name(text)
	name := string(text[:want])
	form := textproto.CanonicalMIMEHeaderKey(name)
	if n != want || canonical != (form == name) || aliased != strings.ContainsAny(name, "_.") {
		t.Errorf("Name(%q) = %d, %t, %t", text, n, canonical, aliased)
	}
	fieldline.Canonicalize(text[:want])
	if got := string(text[:want]); got != form {
		t.Errorf("Canonicalize(%q) made %q, want %q", name, got, form)
	}
}

// TestValueBytes: each byte at each place of a word, alone and with tabs around.
func TestValueBytes(t *testing.T) {
	for c := range 256 {
		for at := range 20 {
			for _, base := range []string{strings.Repeat("v", 20), strings.Repeat("\t", 20), strings.Repeat("\xff\t", 10)} {
				text := []byte(base)
				text[at] = byte(c)
				checkValue(t, text)
			}
		}
	}
}

func FuzzValue(f *testing.F) {
	for _, seed := range []string{"", "a value", "\ttabs\t\tand\x00nul", "12345678\r\n", "\x7f", "\x80\xff \x1f"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) { checkValue(t, []byte(text)) })
}

func checkValue(t *testing.T, text []byte) {
	t.Helper()
	want := 0
	for want < len(text) && httpguts.ValidHeaderFieldValue(string(text[want:want+1])) {
		want++
	}
	if got := fieldline.Value(text); got != want {
		t.Errorf("Value(%q) = %d, want %d", text, got, want)
	}
}
