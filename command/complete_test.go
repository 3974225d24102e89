package command

import (
	"bytes"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

// tree is caddy with the commands of lb below it.
func tree(c console) (root, lb *cobra.Command) {
	lb = &cobra.Command{Use: "lb"}
	root = &cobra.Command{Use: "caddy", SilenceUsage: true}
	root.AddCommand(lb)
	addCommands(lb, c, &outcome{})
	return root, lb
}

// completed are the words that a shell is offered, as it asks for them.
func completed(t *testing.T, words ...string) string {
	t.Helper()
	var out, errors bytes.Buffer
	root, _ := tree(console{in: strings.NewReader(""), out: &out, err: &errors})
	root.SetOut(&out)
	root.SetErr(&errors)
	root.SetArgs(append([]string{cobra.ShellCompRequestCmd, "lb"}, words...))
	if err := root.ExecuteContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	if text := strings.ReplaceAll(errors.String(), "Completion ended with directive: ShellCompDirectiveNoFileComp\n", ""); text != "" {
		t.Errorf("%v: said %s", words, text)
	}
	var offered []string
	for line := range strings.Lines(out.String()) {
		if word, _, _ := strings.Cut(strings.TrimSpace(line), "\t"); !strings.HasPrefix(word, ":") {
			offered = append(offered, word)
		}
	}
	return strings.Join(offered, " ")
}

func TestCompletion(t *testing.T) {
	evil := strings.Replace(poolWeb, `"name":"b"`, `"name":"b\u001b[2J"`, 1)
	one := onePool(t, map[string]reply{"GET /load_balancer/rate_limits": {body: "[" + zone + "]"}})
	two := onePool(t, map[string]reply{pools: {body: "[" + poolSlow + "," + evil + "]"}})
	for _, test := range []struct {
		at    *fakeAPI
		words string
		want  string
	}{
		{one, "dr", "drain"},
		{one, "drain ", "web 10.0.0.1:8080 b"},
		{one, "drain w", "web"},
		{one, "drain web ", "10.0.0.1:8080 b"},
		{one, "drain web b ", ""},
		{one, "pools ", "web"},
		{one, "pools web ", ""},
		{one, "backends ", "web"},
		{one, "backends web 1", "10.0.0.1:8080"},
		{one, "canary ", "web pause promote restart resume rollback share"},
		{one, "canary web r", "restart resume rollback"},
		{one, "canary pause ", ""},
		{one, "limits l", "login"},
		{one, "limits login ", ""},
		{one, "top ", ""},
		{two, "drain ", "slow web"}, // which pool is meant must be said
		{two, "drain web ", "10.0.0.1:8080"},
		{two, "drain none ", ""},
	} {
		words := strings.Split(test.words, " ")
		words = append(append(words[:len(words)-1:len(words)-1], "--address", test.at.address), words[len(words)-1])
		if test.words == "dr" {
			words = []string{"dr"}
		}
		if got := completed(t, words...); got != test.want {
			t.Errorf("%q: offered %q, want %q", test.words, got, test.want)
		}
	}
	if one.changes() != "" {
		t.Error("something was changed")
	}
}

// TestCompletionWithoutCaddy checks that a shell does not wait, and nothing is said, when no Caddy runs, or one that does not answer.
func TestCompletionWithoutCaddy(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	gone := onePool(t, nil)
	gone.server.Close()
	for _, address := range []string{silent.Addr().String(), gone.address, "localhost:x"} {
		start := time.Now()
		for _, command := range []string{"drain", "limits"} {
			if got := completed(t, command, "--address", address, ""); got != "" {
				t.Errorf("%s at %s: offered %q", command, address, got)
			}
		}
		if took := time.Since(start); took > 10*time.Second {
			t.Errorf("%s: took %s", address, took)
		}
	}
}

// TestManual makes the manual's pages, as `caddy manpage` does, and looks at what Markdown might have swallowed.
func TestManual(t *testing.T) {
	_, lb := tree(console{})
	uses := make(map[string]string)
	for _, cmd := range lb.Commands() {
		uses[cmd.Name()] = cmd.Use
	}
	examples := make(map[string]string)
	for _, cmd := range lb.Commands() {
		examples[cmd.Name()] = cmd.Example
	}
	asManual(lb)
	for _, cmd := range lb.Commands() {
		var page bytes.Buffer
		if err := doc.GenMan(cmd, &doc.GenManHeader{Title: "Caddy", Section: "8"}, &page); err != nil {
			t.Fatal(err)
		}
		text := strings.NewReplacer(`\-`, "-", `\(dq`, `"`, `\&`, "", `\[at]`, "@").Replace(page.String())
		if !strings.Contains(text, "caddy lb "+uses[cmd.Name()]) {
			t.Errorf("%s: the page does not have %s:\n%s", cmd.Name(), uses[cmd.Name()], text)
		}
		for line := range strings.Lines(examples[cmd.Name()]) {
			if line = strings.TrimSpace(line); !strings.Contains(text, line+"\n") {
				t.Errorf("%s: the page does not have the example %s:\n%s", cmd.Name(), line, text)
			}
		}
	}
	for text, want := range map[string]string{
		"\nSee <x>:\n  a  <b>\n  c  d\n\nEnd <y>": "\nSee \\<x>:\n\n    a  <b>\n    c  d\n\nEnd \\<y>",
		"\nA list:\n\n  a\n  b":                   "\nA list:\n\n    a\n    b",
	} {
		if got := listed(text); got != want {
			t.Errorf("%q became %q, want %q", text, got, want)
		}
	}
}
