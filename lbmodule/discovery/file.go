package discovery

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/ballastlb/ballast/lbmodule/config"
)

func init() {
	caddy.RegisterModule(new(File))
}

const fileModule = "lb_file"

const (
	// lookInterval is the interval at which the file is checked.
	lookInterval = time.Second
	// restTime is how long a file must not have changed before it is read, so that it is not read half-written.
	restTime = 100 * time.Millisecond
	// mostRests is the largest number of waits for that. A file that changes constantly is read anyway.
	mostRests = 5
	// coarsest is the coarsest resolution of time stamps: changes within it may have the same time stamp.
	coarsest = 2 * time.Second
)

// File lists backends from a file, in JSON or YAML, in the format of Prometheus' `file_sd_configs`. The file is watched: a change is seen
// within two seconds. It may be changed in any way; renaming another file to it is best.
//
// A file that is missing or invalid, or that names no target, changes nothing: the last good list is kept.
//
// In `load_balancer` the labels `weight`, `zone`, `backup`, `max_requests` and `name` set the properties of backends. A plain
// `reverse_proxy` uses `max_requests` only, and does not support `auto`.
type File struct {
	// The path of the file. Its suffix determines the format: `.json`, `.yml` or `.yaml`. Placeholders of the environment may be used.
	// Required.
	Path string `json:"path,omitempty"`

	path  string // with placeholders replaced
	parse func([]byte) (*List, error)
	plain plain

	looking sync.Mutex // held while the file is checked; guards the fields below
	looked  time.Time
	stamp   fs.FileInfo // of the file as it was read; nil if it must be read again
	sum     [sha256.Size]byte
	read    bool // sum is set

	mu   sync.Mutex // guards the fields below
	list *List
	err  error
}

// CaddyModule returns the Caddy module information.
func (*File) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  namespace + fileModule,
		New: func() caddy.Module { return new(File) },
	}
}

// UnmarshalJSON reads the source's config.
func (f *File) UnmarshalJSON(text []byte) error {
	type file File
	return config.Ranges.Decode("dynamic file", text, (*file)(f))
}

// UnmarshalCaddyfile sets f up from Caddyfile tokens: `lb_file <path>`.
func (f *File) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the source's name
	if !d.NextArg() {
		return d.Err("dynamic file: path: missing; must be that of a list in JSON or YAML")
	}
	f.Path = d.Val()
	if d.NextArg() {
		return d.Errf("dynamic file: %s: there must be one path, and nothing behind it", d.Val())
	}
	if d.NextBlock(d.Nesting()) {
		return d.Errf("dynamic file: %s: there are no settings in a block", d.Val())
	}
	if err := f.check(); err != nil {
		return d.WrapErr(err)
	}
	return nil
}

// check checks the path before placeholders are replaced.
func (f *File) check() error {
	if f.Path == "" {
		return errors.New("dynamic file: path: missing; must be that of a list in JSON or YAML")
	}
	if strings.Contains(f.Path, "{") {
		return nil // it is checked when placeholders are replaced
	}
	return checkPath(f.Path)
}

func checkPath(path string) error {
	switch {
	case path == "":
		return errors.New("dynamic file: path: must not be empty after its placeholders are replaced")
	case strings.ContainsRune(path, '*'):
		return fmt.Errorf("dynamic file: path %s: must be one file; `dynamic multi` has several", path)
	case parserOf(path) == nil:
		return fmt.Errorf("dynamic file: path %s: must end in .json, .yml or .yaml", path)
	default:
		return nil
	}
}

// parserOf returns the parser for a file with this name, or nil if the suffix is not known.
func parserOf(path string) func([]byte) (*List, error) {
	switch lower := strings.ToLower(path); {
	case strings.HasSuffix(lower, ".json"):
		return Parse
	case strings.HasSuffix(lower, ".yml"), strings.HasSuffix(lower, ".yaml"):
		return parseYAML
	default:
		return nil
	}
}

// Provision sets f up. It does not check the file, which may be created later.
func (f *File) Provision(ctx caddy.Context) error {
	if err := f.check(); err != nil {
		return err
	}
	filled, known := fill(f.Path)
	if !known {
		return fmt.Errorf("dynamic file: path %s: %w", f.Path, errPlaceholder)
	}
	if err := checkPath(filled); err != nil {
		return err
	}
	f.path, f.parse = filled, parserOf(filled)
	f.plain = plain{logger: ctx.Logger(), location: "file:" + f.Path}
	return nil
}

// GetUpstreams implements [reverseproxy.UpstreamSource].
func (f *File) GetUpstreams(r *http.Request) ([]*reverseproxy.Upstream, error) {
	return f.plain.upstreams(r, f)
}

// List implements [Source]. It checks the file at most once a second. While it does, other callers get the current list.
func (f *File) List(ctx context.Context) (*List, error) {
	f.mu.Lock()
	known := f.list != nil || f.err != nil
	f.mu.Unlock()
	if !known {
		f.looking.Lock() // there is no list yet
	}
	if !known || f.looking.TryLock() {
		// A tenth less than the interval, because tickers are not exact.
		if now := time.Now(); now.Sub(f.looked) >= lookInterval*9/10 {
			f.look(ctx)
			f.looked = time.Now()
		}
		f.looking.Unlock()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.list, f.err
}

// look reads the file if it has changed. The caller holds f.looking.
func (f *File) look(ctx context.Context) {
	list, changed, err := f.next(ctx)
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case !changed:
	case err != nil:
		f.err = err
	default:
		f.err = nil
		if !f.list.equal(list) {
			f.list = list
		}
	}
}

// next returns the list in the file. changed is false if the file has the same content as when it was last read.
func (f *File) next(ctx context.Context) (list *List, changed bool, err error) {
	before := f.stamp
	f.stamp = nil
	info, err := os.Stat(f.path)
	if err != nil {
		f.read = false
		return nil, true, unreadable(err)
	}
	if before != nil && same(before, info) {
		f.stamp = before
		return nil, false, nil
	}
	if info, err = f.rest(ctx, info); err != nil {
		f.read = false
		return nil, true, unreadable(err)
	}
	if !info.Mode().IsRegular() {
		f.read = false
		return nil, true, errors.New("must be a file")
	}
	text, err := readFile(f.path)
	if err != nil {
		f.read = false
		return nil, true, err
	}
	// A write within the resolution of time stamps after this one would look the same, so the file is read again until that time has
	// passed.
	if time.Since(info.ModTime()) >= coarsest {
		f.stamp = info
	}
	sum := sha256.Sum256(text)
	if f.read && sum == f.sum {
		return nil, false, nil
	}
	f.sum, f.read = sum, true
	list, err = f.parse(text)
	return list, true, err
}

// rest waits until the file is no longer being written, for a limited time.
func (f *File) rest(ctx context.Context, info fs.FileInfo) (fs.FileInfo, error) {
	for range mostRests {
		// An age below 0 means that the time stamp is in the future, which says nothing.
		if age := time.Since(info.ModTime()); age < 0 || age >= restTime {
			break
		}
		select {
		case <-time.After(restTime):
		case <-ctx.Done():
		}
		next, err := os.Stat(f.path)
		if err != nil {
			return nil, err
		}
		still := same(info, next)
		if info = next; still || ctx.Err() != nil {
			break
		}
	}
	return info, nil
}

// same reports whether two files seem to be the same, with the same content. A path may lead to another file although its last element has
// not changed: Kubernetes replaces a link in the middle of the path.
func same(a, b fs.FileInfo) bool {
	return os.SameFile(a, b) && a.Size() == b.Size() && a.ModTime().Equal(b.ModTime()) && a.Mode() == b.Mode()
}

func readFile(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, unreadable(err)
	}
	defer file.Close()
	return readAll(file)
}

// readAll reads a list up to a maximum size.
func readAll(from io.Reader) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(from, maxSize+1))
	if err != nil {
		return nil, unreadable(err)
	}
	if len(text) > maxSize {
		return nil, errors.New("must have at most 16 MiB")
	}
	return text, nil
}

// unreadable returns the error for a file that cannot be read, without its path, which is reported separately.
func unreadable(err error) error {
	if path, ok := errors.AsType[*fs.PathError](err); ok {
		err = path.Err
	}
	return fmt.Errorf("cannot be read: %w", err)
}

// Interface guards
var (
	_ Source                = (*File)(nil)
	_ caddy.Provisioner     = (*File)(nil)
	_ caddyfile.Unmarshaler = (*File)(nil)
)
