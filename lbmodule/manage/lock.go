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
	// lockPoll is the first interval at which a lock of the file system is tried again; it doubles up to lockPollMax. certmagic's own is a
	// second, which is long for an edit that somebody waits for.
	lockPoll    = 5 * time.Millisecond
	lockPollMax = 100 * time.Millisecond
	// lockFaults is how many errors in a row end the wait for a lock. The lock's file may be half written.
	lockFaults = 5
	// lockLasts is longer than any node holds a lock, because it gives its round up before.
	lockLasts = StorageTimeout + 5*time.Second
)

// errLock wraps the reasons why a lock could not be had.
var errLock = errors.New("the lock in storage cannot be obtained")

// locker takes the storage's lock of one pool's edits. It is used by one goroutine at a time.
type locker struct {
	key string

	// The lock of another node that was seen last: when it was taken by that node's clock, which is compared with itself only, and since
	// when it has been seen.
	taken string
	since time.Time
}

// lock takes the lock, which must be returned with storage.Unlock.
//
// A node that died with a lock in hand cannot return it. certmagic's file storage breaks a lock that was not renewed for ten seconds, but each
// node that had the lock in the last five seconds renews whatever lock it then finds there, for as long as there is one. So a lock that stays
// the same for longer than any node needs it is broken here.
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
		// Lock tries once before it waits. The file is created or not, so nothing is left behind when the time is over.
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
			_ = files.Unlock(ctx, l.key) // if somebody else was quicker, the next attempt tells
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
		return false // it is being written
	}
	if lock.Created != l.taken {
		l.taken, l.since = lock.Created, time.Now()
		return false
	}
	return time.Since(l.since) > lockLasts
}
