package manage

import (
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"github.com/caddyserver/certmagic"
)

const (
	// lockPoll is the first interval at which a lock of the file system is retried; it doubles up to lockPollMax. certmagic's own interval
	// is a second, which is long for a client that waits for an edit.
	lockPoll    = 5 * time.Millisecond
	lockPollMax = 100 * time.Millisecond
	// lockFaults is the number of consecutive errors that end the wait for a lock. The lock's file may be incomplete while it is written.
	lockFaults = 5
	// lockLasts is longer than any node holds a lock, because a node gives up its round earlier.
	lockLasts = StorageTimeout + 5*time.Second
)

// errLock wraps the reasons why a lock could not be obtained.
var errLock = errors.New("the lock in storage cannot be obtained")

// locker takes the storage's lock of one pool's edits. It is used by one goroutine at a time.
type locker struct {
	key string

	// The lock of another node that was last seen: when it was taken by that node's clock (the value is only compared for equality), and
	// since when it has been seen here.
	taken string
	since time.Time
}

// lock takes the lock, which the caller must release with storage.Unlock.
//
// A node that crashes while it holds a lock cannot release it. certmagic's file storage breaks a lock that was not renewed for ten seconds,
// but each node that had the lock in the last five seconds renews whatever lock it then finds there, for as long as there is one. So a lock
// that stays the same for longer than any node needs it is broken here.
func (l *locker) lock(ctx context.Context, storage certmagic.Storage) error {
	files, are := storage.(*certmagic.FileStorage)
	if !are {
		if err := storage.Lock(ctx, l.key); err != nil {
			return errors.Join(errLock, err)
		}
		return nil
	}
	faults := 0
	for poll := lockPoll; ; poll = min(2*poll, lockPollMax) {
		// Lock tries once before it waits. It creates the file or not, so the timeout leaves nothing behind.
		attempt, cancel := context.WithTimeout(ctx, poll/2+rand.N(poll))
		err := files.Lock(attempt, l.key)
		if err == nil {
			cancel()
			l.taken = ""
			return nil
		}
		if faults++; errors.Is(err, context.DeadlineExceeded) {
			faults = 0
		} else {
			<-attempt.Done()
		}
		cancel()
		if ctx.Err() != nil || faults == lockFaults {
			return errors.Join(errLock, err)
		}
		if l.stuck(files) {
			_ = files.Unlock(ctx, l.key) // if another node was faster, the next attempt fails
		}
	}
}

// stuck reports whether the lock has been the same for longer than any node holds one.
func (l *locker) stuck(files *certmagic.FileStorage) bool {
	raw, err := os.ReadFile(filepath.Join(files.Path, "locks", certmagic.StorageKeys.Safe(l.key)+".lock"))
	if err != nil {
		return false
	}
	var lock struct {
		Created string `json:"created"`
	}
	if json.Unmarshal(raw, &lock) != nil || lock.Created == "" {
		return false // the file is being written
	}
	if lock.Created != l.taken {
		l.taken, l.since = lock.Created, time.Now()
		return false
	}
	return time.Since(l.since) > lockLasts
}
