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

// Errors of Decode.
var (
	// ErrForeign means that the document is not ours, or another pool's.
	ErrForeign = errors.New("not a state document of this pool")
	// ErrLater means that a later version wrote the document, which must be preserved.
	ErrLater = errors.New("state document is of a later version")
	// ErrCorrupt means that the document has been altered or truncated.
	ErrCorrupt = errors.New("state document is corrupt")
)

const (
	format = "ballast pool state"
	schema = 1
)

// document is the stored form of an Overlay.
type document struct {
	Format   string          `json:"format"`
	Schema   int             `json:"schema"`
	Pool     string          `json:"pool"`
	Lineage  string          `json:"lineage"` // the same for all documents that were derived from one another
	Writer   string          `json:"writer"`
	Written  time.Time       `json:"written"`
	Checksum string          `json:"checksum"` // of Lineage and State
	State    json.RawMessage `json:"state"`
}

// Encode returns the stored form of o for the pool with this name.
func Encode(pool, lineage, writer string, o *Overlay, now time.Time) ([]byte, error) {
	state, err := json.Marshal(o)
	if err != nil {
		return nil, err
	}
	return json.Marshal(document{format, schema, pool, lineage, writer, now.UTC(), checksum(lineage, state), state})
}

// Decode parses what Encode returned for the pool with this name.
func Decode(pool string, raw []byte) (o *Overlay, lineage string, err error) {
	var d document
	if err := json.Unmarshal(raw, &d); err != nil {
		return nil, "", fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	switch {
	case d.Format != format || d.Schema < schema || d.Pool != pool:
		return nil, "", fmt.Errorf("%w: format %q, schema %d, pool %q", ErrForeign, d.Format, d.Schema, d.Pool)
	case d.Schema > schema:
		return nil, "", fmt.Errorf("%w: schema %d", ErrLater, d.Schema)
	case d.Checksum != checksum(d.Lineage, d.State):
		return nil, "", fmt.Errorf("%w: the checksum does not match", ErrCorrupt)
	}
	o, err = decodeState(d.State)
	return o, d.Lineage, err
}

func decodeState(state []byte) (*Overlay, error) {
	o := new(Overlay)
	decoder := json.NewDecoder(bytes.NewReader(state))
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
			edit.Value = s.Get(edit.Field) // converts a number to int
		}
	}
	return o, nil
}

func checksum(lineage string, state []byte) string {
	sum := sha256.Sum256(append([]byte(lineage+"\n"), state...))
	return "sha256:" + hex.EncodeToString(sum[:])
}
