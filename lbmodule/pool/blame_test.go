package pool

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/ballastlb/ballast/breaker"
)

// A member is ejected for its own failures, and not for those of one client or of one broken page while it serves others.
func TestBlame(t *testing.T) {
	type step struct {
		member         int
		times          int
		client, target uint32
		verdict        Verdict
		pause          time.Duration // before it
	}
	tests := map[string]struct {
		steps []step
		want  breaker.State // of member 0
	}{
		"one client fails with many pages, another is served": {[]step{
			{client: 2, target: 20, verdict: good, times: 1},
			{client: 1, target: 10, verdict: bad, times: 3},
			{client: 1, target: 11, verdict: bad, times: 9},
		}, breaker.Closed},
		"many clients fail with one page, other pages are served": {[]step{
			{client: 9, target: 20, verdict: good, times: 1},
			{client: 1, target: 10, verdict: bad, times: 3},
			{client: 2, target: 10, verdict: bad, times: 9},
		}, breaker.Closed},
		"two clients fail with two pages": {[]step{
			{client: 9, target: 20, verdict: good, times: 1},
			{client: 1, target: 10, verdict: bad, times: 4},
			{client: 2, target: 11, verdict: bad, times: 1},
		}, breaker.Open},
		"nobody else was served": {[]step{
			{client: 1, target: 20, verdict: good, times: 1},
			{client: 1, target: 10, verdict: bad, times: 5},
		}, breaker.Open},
		"somebody else was served long ago": {[]step{
			{client: 2, target: 20, verdict: good, times: 1},
			{client: 1, target: 10, verdict: bad, times: 5, pause: 11 * time.Second},
		}, breaker.Open},
		"another member serves what this one fails": {[]step{
			{client: 2, target: 20, verdict: good, times: 1},
			{client: 1, target: 10, verdict: bad, times: 4},
			{client: 1, target: 10, verdict: good, times: 1, member: 1},
			{client: 1, target: 10, verdict: bad, times: 1},
		}, breaker.Open},
		"another member served it long before this one failed": {[]step{
			{client: 1, target: 10, verdict: good, times: 1, member: 1},
			{client: 2, target: 20, verdict: good, times: 1, pause: time.Second},
			{client: 1, target: 10, verdict: bad, times: 9},
		}, breaker.Closed},
		"this member itself served it between failures": {[]step{
			{client: 2, target: 20, verdict: good, times: 1},
			{client: 1, target: 10, verdict: bad, times: 4},
			{client: 1, target: 10, verdict: good, times: 1},
			{client: 1, target: 10, verdict: bad, times: 9},
		}, breaker.Closed},
		"failures of another client long ago": {[]step{
			{client: 3, target: 30, verdict: bad, times: 4},
			{client: 2, target: 20, verdict: good, times: 1, pause: 11 * time.Second},
			{client: 1, target: 10, verdict: bad, times: 9},
		}, breaker.Closed},
		"no connection can be made": {[]step{
			{client: 2, target: 20, verdict: good, times: 1},
			{client: 1, target: 10, verdict: refused, times: 5},
		}, breaker.Open},
		"clients that are not known": {[]step{
			{verdict: good, times: 1},
			{verdict: bad, times: 5},
		}, breaker.Open},
		"a share of failures, of one client": {[]step{
			{client: 2, target: 20, verdict: good, times: 10},
			{client: 1, target: 10, verdict: bad, times: 4},
			{client: 1, target: 11, verdict: good, times: 1},
			{client: 1, target: 10, verdict: bad, times: 4},
			{client: 1, target: 11, verdict: good, times: 1},
			{client: 1, target: 10, verdict: bad, times: 4},
			{client: 1, target: 11, verdict: good, times: 1},
			{client: 1, target: 10, verdict: bad, times: 4},
		}, breaker.Closed},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				v := newPool().Open(backends(4), guarded())
				defer v.Close()
				for _, s := range test.steps {
					time.Sleep(s.pause)
					verdict := s.verdict
					verdict.Origin = Origin{Client: s.client, Target: s.target}
					answer(t, v, s.member, s.times, verdict)
				}
				if got := v.Member(0).Vitals().Breaker; got != test.want {
					t.Errorf("the breaker is %v, want %v", got, test.want)
				}
			})
		})
	}
}
