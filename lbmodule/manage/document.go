package manage

import (
	"fmt"

	"github.com/ballastlb/ballast/lbmodule/overlay"
)

// decode is [overlay.Decode] for a document that must be the state of this pool. Its edits must follow the rules for changes, because
// another program may have written it.
func decode(pool string, raw []byte) (o *overlay.Overlay, lineage string, err error) {
	o, lineage, err = overlay.Decode(pool, raw)
	if err != nil {
		return nil, "", err
	}
	for address, e := range o.Backends {
		if err := checkEntry(address, &e); err != nil {
			return nil, "", fmt.Errorf("%w: backend %s: %w", overlay.ErrForeign, address, err)
		}
	}
	return o, lineage, nil
}

// checkEntry checks the edits of the backend with that address.
func checkEntry(address string, e *overlay.Entry) error {
	if e.Added != nil {
		c := Change{Address: address, Name: e.Name}
		if err := c.checkAdded(); err != nil {
			return err
		}
	}
	for _, edit := range e.Edits {
		var s overlay.Settings
		if err := s.Set(edit.Field, edit.Value); err != nil {
			return err
		}
		if err := checkSetting(edit.Field, &s); err != nil {
			return err
		}
	}
	return nil
}
