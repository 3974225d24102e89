package lbmodule

import (
	"encoding/json"
	"fmt"

	"github.com/ballastlb/ballast/lbmodule/app"
	"github.com/ballastlb/ballast/lbmodule/config"
	"github.com/ballastlb/ballast/lbmodule/service"
	"github.com/ballastlb/ballast/lbmodule/stock"
)

// PoolSettings describes all that handlers which share a pool must agree on. h has not been provisioned.
func (h *Handler) PoolSettings() (string, error) {
	words, err := stock.Read(&h.Handler)
	if err != nil {
		return "", err
	}
	return h.describe(&words)
}

func init() {
	app.DescribeBy(new(Handler).CaddyModule().ID.Name(), describePool)
}

// describePool reads from a load balancer's config which pool it will use.
func describePool(text []byte) (key app.PoolKey, err error) {
	h := new(Handler)
	if err := json.Unmarshal(text, h); err != nil {
		return key, err
	}
	if err := h.Check(); err != nil {
		return key, err
	}
	words, err := stock.Read(&h.Handler)
	if err != nil {
		return key, err
	}
	return h.poolKey(&words)
}

// poolKey is what h says about its pool.
func (h *Handler) poolKey(words *stock.Words) (key app.PoolKey, err error) {
	key = app.PoolKey{Name: h.Name, Derived: h.derivedName(words)}
	key.Settings, err = h.describe(words)
	return key, err
}

// describe describes all that handlers which share a pool must agree on.
func (h *Handler) describe(words *stock.Words) (string, error) {
	described, err := json.Marshal(struct {
		Words    json.RawMessage
		Backends []*config.Backend
		Settings config.Settings
	}{words.Described, h.Backends, h.Settings})
	if err != nil {
		return "", fmt.Errorf("describing pool: %w", err)
	}
	return string(described), nil
}

// derivedName is the name of a pool that was given none. It is as stable as can be under edits, because the
// state of the pool goes with it: that is why it does not name all backends.
func (h *Handler) derivedName(words *stock.Words) string {
	switch {
	case len(words.Dynamic) > 0:
		return service.SourceName(words.Dynamic)
	case len(words.Upstreams) > 0:
		return words.Upstreams[0].Dial
	default:
		return h.Backends[0].Address
	}
}
