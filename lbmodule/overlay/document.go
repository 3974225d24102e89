package overlay

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// What Decode refuses.
var (
	// ErrForeign is that it is no document of ours, or one of a later form.
	ErrForeign = errors.New("not a state document of this form")
	// ErrCorrupt is that it has been changed or cut off.
	ErrCorrupt = errors.New("state document is corrupt")
)

const (
	format = "ballast pool state"
	schema = 1
)

// document is an Overlay as it is stored.
type document struct {
	Format   string          `json:"format"`
	Schema   int             `json:"schema"`
	Pool     string          `json:"pool"`
	Writer   string          `json:"writer"`
	Written  time.Time       `json:"written"`
	Checksum string          `json:"checksum"` // of State
	State    json.RawMessage `json:"state"`
}

// Encode returns o as it is stored for the pool of that name.
func Encode(pool, writer string, o *Overlay, now time.Time) ([]byte, error) {
	state, err := json.Marshal(o)
	if err != nil {
		return nil, err
	}
	return json.Marshal(document{format, schema, pool, writer, now.UTC(), checksum(state), state})
}

// Decode reads what Encode returned for the pool of that name.
func Decode(pool string, raw []byte) (*Overlay, error) {
	var d document
	if err := json.Unmarshal(raw, &d); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	if d.Format != format || d.Schema != schema || d.Pool != pool {
		return nil, fmt.Errorf("%w: format %q, schema %d, pool %q", ErrForeign, d.Format, d.Schema, d.Pool)
	}
	if d.Checksum != checksum(d.State) {
		return nil, fmt.Errorf("%w: the checksum does not match", ErrCorrupt)
	}
	o := new(Overlay)
	decoder := json.NewDecoder(bytes.NewReader(d.State))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(o); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrForeign, err)
	}
	for address, e := range o.Backends {
		for i := range e.Edits {
			var s Settings
			edit := &e.Edits[i]
			if err := s.Set(edit.Field, edit.Value); err != nil {
				return nil, fmt.Errorf("%w: backend %s: %w", ErrForeign, address, err)
			}
			edit.Value = s.Get(edit.Field) // a number as an int
		}
	}
	return o, nil
}

func checksum(state []byte) string {
	sum := sha256.Sum256(state)
	return "sha256:" + hex.EncodeToString(sum[:])
}
