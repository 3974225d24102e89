package service

import (
	"context"
	"time"
)

// settleMargin is the time that first probes may take beyond their timeout, because those of a large pool do not all begin at once.
const settleMargin = time.Second

// Settle waits until the polled dynamic source has been queried once and no backend is held for its first probe. It gives up when the
// timeout of a probe and a margin have passed after that query, and when ctx ends. It reports whether it succeeded.
func (s *Service) Settle(ctx context.Context) bool {
	if s.Polls() {
		select {
		case <-s.dynamic.asked:
		case <-ctx.Done():
			return false
		}
	}
	if s.check == nil {
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, time.Duration(s.check.Timeout)+settleMargin)
	defer cancel()
	for {
		set, _ := s.Shown()
		if set == nil {
			return true
		}
		snapshot := set.view.Snapshot()
		if !snapshot.Held() {
			return true
		}
		superseded, renamed := set.Superseded()
		select {
		case <-snapshot.Replaced():
		case <-superseded:
		case <-renamed:
		case <-ctx.Done():
			return false
		}
	}
}
