package manage

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/certmagic"

	"github.com/ballastlb/ballast/lbmodule/overlay"
)

// unreadStorage is a storage that cannot be read at first, and then is slow.
type unreadStorage struct {
	certmagic.Storage
	reads int
	then  error // of the reads after the first
}

func (s *unreadStorage) Stat(ctx context.Context, key string) (certmagic.KeyInfo, error) {
	if s.reads++; s.reads == 1 {
		return certmagic.KeyInfo{}, errors.New("not yet")
	}
	select {
	case <-time.After(time.Second):
	case <-ctx.Done():
		return certmagic.KeyInfo{}, ctx.Err()
	}
	if s.then != nil {
		return certmagic.KeyInfo{}, s.then
	}
	return s.Storage.Stat(ctx, key)
}

// Edits that could not be read when the config was loaded are waited for while they are read once more.
func TestSettle(t *testing.T) {
	for name, then := range map[string]error{"read": nil, "not read": errors.New("still not")} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				stored := &certmagic.FileStorage{Path: t.TempDir()}
				raw, err := overlay.Encode("settle", "some", "other node", new(overlay.Overlay).Edit("a:1", []overlay.Edit{{Field: overlay.Weight, Value: 9}}, nil), time.Now())
				if err != nil {
					t.Fatal(err)
				}
				if err := stored.Store(t.Context(), stateKey("settle"), raw); err != nil {
					t.Fatal(err)
				}
				storage := &unreadStorage{Storage: stored, then: then}
				start := time.Now()
				m, _ := serve(t, storage, "settle", "a:1")
				// What is read for the first time is read again under the lock.
				settled := m.Settle(t.Context())
				if took := time.Since(start); !settled || took < time.Second || took > 2*time.Second {
					t.Errorf("settled %v after %v, want after 1 or 2 s", settled, took)
				}
				if edits := len(m.Edits().Backends); edits != 1 && then == nil || edits != 0 && then != nil {
					t.Errorf("%d backends are edited", edits)
				}
				// What failed before is not waited for at the next reload.
				start = time.Now()
				next, _ := serve(t, storage, "settle", "a:1")
				if !next.Settle(t.Context()) || time.Since(start) != 0 {
					t.Errorf("the next config settles after %v, want at once", time.Since(start))
				}
				time.Sleep(time.Minute) // until its round is over
			})
		})
	}
}

func TestSettleEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, _ := serve(t, &unreadStorage{Storage: &certmagic.FileStorage{Path: t.TempDir()}}, "settle-ends", "a:1")
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		if start := time.Now(); m.Settle(ctx) || time.Since(start) != 500*time.Millisecond {
			t.Errorf("it has settled after %v", time.Since(start))
		}
		time.Sleep(time.Minute) // until the round is over
	})
}
