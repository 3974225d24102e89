package service

import (
	"context"
	"time"
)

// settleMargin is the time that first probes may take beyond their timeout: those of a large pool do not begin together.
const settleMargin = time.Second

// Settle waits until requests are balanced over what is known: the polled dynamic source has been queried once, and no backend is held
// for its first probe. It gives up when the timeout of a probe and a margin have passed after that query, and when ctx ends. It reports
// whether it got that far.
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
