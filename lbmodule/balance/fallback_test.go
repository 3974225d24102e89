package balance

import "testing"

// With keys or without, the avoided members are those of the picker that uses past answers.
func TestFallbackAvoids(t *testing.T) {
	members := answering(same(3, 1), 64, ms, ms, 400*ms)
	for name, test := range map[string]struct {
		otherwise Policy
		want      Cause
	}{
		"one that goes by answers": {PeakEWMA{}, Slow},
		"one that does not":        {LeastConn{}, NotAvoided},
	} {
		p := WithFallback{Hash{size: 251}, test.otherwise}.Build(members, nil, nil)
		all := p.(Avoiding).Avoided(at(0))
		got := NotAvoided
		for i, a := range all {
			if i == 2 {
				got = a.Cause
			} else if a.Cause != NotAvoided {
				t.Errorf("%s: the quick member %d is avoided: %+v", name, i, a)
			}
		}
		if got != test.want {
			t.Errorf("%s: cause %d, want %d", name, got, test.want)
		}
	}
}
