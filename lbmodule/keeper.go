package lbmodule

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"strings"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/caddyserver/certmagic"
	"github.com/google/uuid"

	"github.com/ballastlb/ballast/lbmodule/overlay"
)

const (
	// storageTimeout bounds what is done with the storage at a time; it may be at the other end of a network.
	storageTimeout = 10 * time.Second
	// writeGap is the least time from one write to the next: what changes meanwhile is written together.
	writeGap = 25 * time.Millisecond
	// writeRetry is after which time a write that failed is tried again, doubling up to writeRetryMax.
	writeRetry    = time.Second
	writeRetryMax = 30 * time.Second
	// lastWrite is for how long a config that ends waits for what is to be written.
	lastWrite = 2 * time.Second
)

// node tells this process from others that share its storage.
var node = uuid.NewString()

// stateWrites count how often edits were written.
var stateWrites struct{ ok, failed atomic.Uint64 }

// keeper keeps the edits of a pool in Caddy's storage. Several nodes may share that: whoever writes has the storage's lock and
// brings together what both have. manager.mu guards it.
type keeper struct {
	storage certmagic.Storage
	uses    int // how often it was said what storage to use
	key     string
	lineage string           // of the document in storage; "" if none was seen
	base    *overlay.Overlay // as it is in storage, as far as is known
	seen    certmagic.KeyInfo
	changed bool // the storage may be another than the one that base is in

	number uint64 // of the edits that were made here: each has the next. Versions are no such number: other nodes count, too

	writing bool          // a goroutine is at it
	looking bool          // it is to look whether another node has written
	hurry   chan struct{} // tells it not to rest
	written uint64        // number up to which edits are in storage
	failed  uint64        // number up to which they could not be written when that was tried last; 0 if it could
	unread  bool          // it could not be read when that was tried last
	turned  chan struct{} // closed when what is above is another
}

// stateKey is where the edits of the pool of that name are. Names may hold what paths must not.
func stateKey(pool string) string {
	const readable = 64
	safe := strings.Map(func(c rune) rune {
		if c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' {
			return c
		}
		return '_'
	}, strings.ToLower(pool))
	sum := sha256.Sum256([]byte(pool))
	return "load_balancer/pools/" + safe[:min(len(safe), readable)] + "-" + hex.EncodeToString(sum[:8]) + ".json"
}

func newKeeper(pool string) keeper {
	return keeper{key: stateKey(pool), base: new(overlay.Overlay), hurry: make(chan struct{}, 1), turned: make(chan struct{})}
}

// load reads the edits of the pool of that name. What cannot be read changes nothing, and is looked at again when the config serves.
func (k *keeper) load(ctx context.Context, storage certmagic.Storage, pool string, logger *zap.Logger) {
	// First the stamp: what is written in between is looked at again.
	seen, err := storage.Stat(ctx, k.key)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err == nil {
		var raw []byte
		if raw, err = storage.Load(ctx, k.key); err == nil {
			var found *overlay.Overlay
			if found, k.lineage, err = overlay.Decode(pool, raw); err == nil {
				k.base, k.seen = found, seen
				return
			}
		}
	}
	k.unread = true
	logger.Error("edits of pool cannot be read; the config rules", zap.String("pool", pool), zap.String("key", k.key), zap.Error(err))
}

// use makes this the storage from now on.
func (k *keeper) use(storage certmagic.Storage) {
	// Each config has a storage of its own, which may be the same place.
	if k.uses > 0 {
		k.changed = true
		k.number++ // what was written elsewhere is to be here
	}
	k.storage = storage
	k.uses++
	k.looking = k.looking || k.unread || k.changed
}

// turn tells those who wait that something is written, or is not. The caller holds manager.mu.
func (k *keeper) turn() {
	close(k.turned)
	k.turned = make(chan struct{})
}
