package app

import (
	"go.uber.org/zap"

	"github.com/ballastlb/ballast/lbmodule/canary"
	"github.com/ballastlb/ballast/lbmodule/pool"
)

// reportCanary reports that the canary's share of the clients has changed.
func (a *App) reportCanary(e *pool.Event) {
	r := &e.Canary
	tried, others := sideData(&r.Sides[canary.Canary]), sideData(&r.Sides[canary.Others])
	data := map[string]any{
		"pool": e.Pool, "share": r.Share, "state": r.State.String(), "reason": e.Reason,
		"canary": tried, "others": others, "another_node": r.Elsewhere,
	}
	fields := []zap.Field{
		zap.String("pool", e.Pool), zap.Float64("share", r.Share), zap.String("state", r.State.String()), zap.String("reason", e.Reason),
		zap.Any("canary", tried), zap.Any("others", others), zap.Bool("another_node", r.Elsewhere),
	}
	if r.State != canary.RolledBack {
		a.logger.Info("share of canary changed", fields...)
		a.emit(eventCanaryMoved, data)
		return
	}
	for _, test := range []struct {
		word     string
		evidence *canary.Evidence
	}{{"error_evidence", r.Errors}, {"latency_evidence", r.Latency}} {
		if test.evidence != nil {
			data[test.word] = test.evidence.Value
			fields = append(fields, zap.Float64(test.word, test.evidence.Value))
		}
	}
	level := zap.ErrorLevel
	if e.Reason == canary.ReasonByHand || r.Elsewhere { // an error is logged only by the node that decided
		level = zap.WarnLevel
	}
	a.logger.Log(level, "canary is rolled back", fields...)
	a.emit(eventCanaryRolledBack, data)
}

func sideData(f *canary.Figures) map[string]any {
	return map[string]any{
		"requests": f.Requests, "failures": f.Failures, "p50_ms": float64(f.P50.Microseconds()) / 1000, "p95_ms": float64(f.P95.Microseconds()) / 1000,
	}
}

// TellCanaryChange reports that an operator has changed a canary.
func (a *App) TellCanaryChange(name string, action canary.Action, share float64, owner, reason, remote, identity string) {
	a.logger.Info("canary was changed by an operator",
		zap.String("pool", name), zap.String("action", action.String()), zap.Float64("share", share), zap.String("remote", remote),
		zap.String("identity", identity), zap.String("owner", owner), zap.String("reason", reason))
	a.emit("canary_changed", map[string]any{"pool": name, "action": action.String(), "share": share, "owner": owner, "reason": reason})
}
