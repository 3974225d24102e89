package redisstore

import (
	"fmt"
	"strings"
	"testing"
)

func TestAnswersAreBounded(t *testing.T) {
	result := "*3\r\n:0\r\n:0\r\n$4\r\n12.5\r\n"
	for name, tt := range map[string]struct {
		text string
		want bool
	}{
		"nothing":                {"", true},
		"status":                 {"+PONG\r\n", true},
		"error":                  {"-NOSCRIPT No matching script.\r\n" + result, true},
		"many results":           {strings.Repeat(result, 10_000), true},
		"null":                   {"$-1\r\n*-1\r\n" + result, true},
		"empty":                  {"$0\r\n\r\n*0\r\n" + result, true},
		"text like a head":       {"$11\r\n$9999999999\r\n" + result, true},
		"text of lines":          {"$9\r\n*99\r\n*99\r\n\r\n" + result, true},
		"lists in lists":         {strings.Repeat("*1\r\n", maxDepth) + ":1\r\n" + result, true},
		"lists after lists":      {strings.Repeat("*2\r\n*1\r\n:1\r\n:1\r\n", 10_000), true},
		"map of RESP3":           {"%1\r\n+a\r\n:1\r\n" + result, true},
		"push and attributes":    {">1\r\n+a\r\n|1\r\n+a\r\n+b\r\n:1\r\n" + result, true},
		"largest text":           {fmt.Sprintf("$%d\r\n%s\r\n", maxText, strings.Repeat("x", maxText)) + result, true},
		"text too large":         {fmt.Sprintf("$%d\r\n", maxText+1), false},
		"huge text":              {"$9223372036854775807\r\n", false},
		"more than a number":     {"$99999999999999999999999999999999999999999999999999999\r\n", false},
		"text of no length":      {"$x\r\n", false},
		"huge list":              {"*2147483647\r\n", false},
		"huge map":               {fmt.Sprintf("%%%d\r\n", maxElements+1), false},
		"map that overflows":     {"%9223372036854775807\r\n", false},
		"zeros before a length":  {"$" + strings.Repeat("0", 100) + "9999999999\r\n", false},
		"huge set":               {"~99999999\r\n", false},
		"deep":                   {strings.Repeat("*1\r\n", 1_000_000), false},
		"too large in a list":    {"*2\r\n:1\r\n$9999999999\r\n", false},
		"too large after others": {result + result + "*9999999999\r\n", false},
		"endless line":           {"+" + strings.Repeat("x", 2*maxText), false},
	} {
		for _, step := range []int{1, 7, 4096} {
			if step == 1 && len(tt.text) > 1<<20 {
				continue
			}
			var a answers
			got := true
			for text := tt.text; got && text != ""; text = text[min(step, len(text)):] {
				got = a.follow([]byte(text[:min(step, len(text))]))
			}
			if got != tt.want {
				t.Errorf("%s, %d bytes at a time: within bounds: %v, want %v", name, step, got, tt.want)
			}
			if a.follow(nil) != tt.want {
				t.Errorf("%s: the result changes without more bytes", name)
			}
			if tt.want && (len(a.lists) > 0 || a.text > 0 || a.size > 0) {
				t.Errorf("%s, %d bytes at a time: %+v is left", name, step, a)
			}
		}
	}
}

// FuzzAnswersAreBounded checks that an answer in pieces is judged like the whole.
func FuzzAnswersAreBounded(f *testing.F) {
	f.Add("*3\r\n:0\r\n:0\r\n$4\r\n12.5\r\n", 3)
	f.Add("$5\r\n", 1)
	f.Fuzz(func(t *testing.T, text string, step int) {
		var whole, pieces answers
		want := whole.follow([]byte(text))
		step = max(step, 1)
		for rest := text; rest != ""; rest = rest[min(step, len(rest)):] {
			pieces.follow([]byte(rest[:min(step, len(rest))]))
		}
		if got := !pieces.tooLarge; got != want {
			t.Fatalf("%q: %v in pieces of %d, %v in one", text, got, step, want)
		}
		if len(whole.lists) > maxDepth || whole.text > maxText+2 {
			t.Fatalf("%q: %+v", text, whole)
		}
	})
}
