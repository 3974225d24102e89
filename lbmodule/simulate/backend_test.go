package simulate

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// TestGivenUp: an abandoned request frees the backend's worker, or its place in the backlog. A stopped backend does not notice.
func TestGivenUp(t *testing.T) {
	var c clock
	b := &backend{clock: &c, random: rand.New(rand.NewPCG(1, 1)), Behavior: usual}
	b.Delay, b.Workers, b.Backlog = caddy.Duration(time.Second), 1, 1
	answers := map[string][]int{}
	receive := func(name string) *work {
		return b.receive(func(status int) { answers[name] = append(answers[name], status) })
	}
	until := func(at time.Duration) {
		for c.run(at) {
		}
		c.now = at
	}
	first, second := receive("first"), receive("second")
	receive("beyond the backlog")
	second.cancel()
	receive("third") // has the place of the second
	first.cancel()   // and now its worker
	receive("fourth")
	until(time.Second)
	stopping := b.Behavior
	stopping.State = stopped
	b.change(stopping)
	held := b.working[0]
	held.cancel()
	receive("fifth")
	until(5 * time.Second)
	if len(b.working) != 1 {
		t.Errorf("%d are worked on by a stopped backend, want the abandoned one", len(b.working))
	}
	b.change(usual)
	until(20 * time.Second)
	want := map[string][]int{"beyond the backlog": {503}, "third": {200}, "fifth": {200}}
	if len(answers) != len(want) {
		t.Errorf("answers %v, want %v", answers, want)
	}
	for name, statuses := range want {
		if !slices.Equal(answers[name], statuses) {
			t.Errorf("%s: answers %v, want %v", name, answers[name], statuses)
		}
	}
}
