package manage

import (
	"context"
	"errors"
	"io/fs"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/google/uuid"

	"github.com/ballastlb/ballast/lbmodule/overlay"
)

// round merges the edits of this node with those in storage, once.
type round struct {
	storage certmagic.Storage
	uses    int
	key     string
	pool    string
	lineage string
	changed bool
	base    *overlay.Overlay // the last edits known to be common to both
	mine    *overlay.Overlay // the edits of this node
	number  uint64           // of mine
	own     bool             // this node has edits to write
	locker  *locker

	// alter changes the merged edits before they are written; nil if only the edits of this node are written. refused is its error: the
	// round continues without the change.
	alter   func(*round, *overlay.Overlay) (*overlay.Overlay, error)
	refused error

	err       error
	result    *overlay.Overlay // what is in storage now
	there     bool             // a document existed before
	seen      certmagic.KeyInfo
	conflicts []overlay.Conflict
	aside     string // where an unreadable document was moved to; "" if there was none
	cause     error  // why it was unreadable
}

// do reads the stored edits and, if necessary, writes the merged ones. ctx bounds the time until the lock is held; StorageTimeout bounds
// the rest.
func (r *round) do(ctx context.Context) error {
	if r.mine == r.base && r.alter == nil {
		// There is nothing to write, unless the document is missing or has another lineage.
		theirs, err := r.read(ctx)
		switch {
		case err == nil && r.mine == r.base && (r.there || !r.changed):
			r.result = theirs
			return nil
		case err != nil && !unreadable(err):
			return err
		}
	}
	if err := r.locker.lock(ctx, r.storage); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), StorageTimeout)
	defer cancel()
	defer func() { _ = r.storage.Unlock(context.WithoutCancel(ctx), r.key) }()
	theirs, err := r.read(ctx)
	if unreadable(err) {
		theirs, err = r.base, r.setAside(ctx, err)
	}
	if err != nil {
		return err
	}
	r.result, r.conflicts = overlay.Rebase(r.base, r.mine, theirs)
	if r.alter != nil {
		r.result, r.refused = r.alter(r, r.result)
	}
	if r.result == theirs && r.there {
		return nil
	}
	// A storage that ignores the context may have taken so long that another node has the lock.
	if err := ctx.Err(); err != nil {
		return err
	}
	return r.write(ctx)
}

// write writes the result.
func (r *round) write(ctx context.Context) error {
	if len(r.result.Backends) == 0 && !r.there {
		return nil // there are no edits to store
	}
	if r.lineage == "" {
		r.lineage = uuid.NewString()
	}
	raw, err := overlay.Encode(r.pool, r.lineage, node, r.result, time.Now())
	if err != nil {
		return err
	}
	if err := r.storage.Store(ctx, r.key, raw); err != nil {
		return err
	}
	r.seen, _ = r.storage.Stat(ctx, r.key) // if it fails, the document is read once more
	return nil
}

// read returns the edits in storage, or the base if there are none.
func (r *round) read(ctx context.Context) (*overlay.Overlay, error) {
	// Stat comes first, so that a write after it is noticed at the next look.
	seen, err := r.storage.Stat(ctx, r.key)
	if errors.Is(err, fs.ErrNotExist) {
		return r.base, nil
	}
	if err != nil {
		return nil, err
	}
	raw, err := r.storage.Load(ctx, r.key)
	if err != nil {
		return nil, err
	}
	theirs, lineage, err := decode(r.pool, raw)
	if err != nil {
		return nil, err
	}
	if r.there, r.seen = true, seen; r.lineage != lineage {
		// The document has another lineage, which the edits here are not based on.
		r.lineage, r.base = lineage, new(overlay.Overlay)
	}
	return theirs, nil
}

// unreadable reports whether no node can read the document. Newer nodes can read one of a later version.
func unreadable(err error) bool {
	return errors.Is(err, overlay.ErrCorrupt) || errors.Is(err, overlay.ErrForeign)
}

// setAside moves an unreadable document away, replacing the one moved before.
func (r *round) setAside(ctx context.Context, cause error) error {
	raw, err := r.storage.Load(ctx, r.key)
	if err != nil {
		return err
	}
	r.aside, r.cause = r.key+".unreadable", cause
	if err := r.storage.Store(ctx, r.aside, raw); err != nil {
		return err
	}
	return r.storage.Delete(ctx, r.key)
}
