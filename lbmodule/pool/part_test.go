package pool

import (
	"slices"
	"testing"
	"time"

	"github.com/ballastlb/ballast/lbmodule/balance"
	"github.com/ballastlb/ballast/lbmodule/canary"
)

// TestPartDoesNotPanic: if no member of a part is usable, the pool does not panic, and the part does not serve.
func TestPartDoesNotPanic(t *testing.T) {
	p := new(Registry).Acquire("part")
	var told []Event
	defer p.Notify(func(e Event) { told = append(told, e) })()
	settings := Settings{Policy: balance.RoundRobin{}, Checked: true, Initial: StartUp}
	whole := p.Open([]Backend{{Address: "a:1", Weight: 1}, {Address: "b:1", Weight: 1}}, settings)
	defer whole.Close()
	counts := new(canary.Counts)
	part, _ := p.OpenPart(whole, []int{1}, settings, counts)
	defer part.Close()
	if !part.Serves() || !part.IsPart() || whole.IsPart() || part.Backend(0).Address != "b:1" {
		t.Fatal("the part is not what it should be")
	}
	l, err := part.AcquireFor(Key{}, nil, true)
	if err != nil || l.Side() != counts {
		t.Errorf("%v, counted in %p, want %p", err, l.Side(), counts)
	}
	l.Release()
	if l.Side() != nil {
		t.Error("counted after its release")
	}
	part.settings.Initial, part.settings.Checked = StartDown, true
	part.Refresh(time.Now())
	if part.Serves() {
		t.Error("serves without a usable member")
	}
	if slices.ContainsFunc(told, func(e Event) bool { return e.Kind == PanicBegan }) {
		t.Errorf("told of %v", told)
	}
}
