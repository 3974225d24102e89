// Package overlay represents the edits of a pool's backends, and merges them with the config.
//
// The config defines the backends and their settings. An [Overlay] holds the edits since then: backends that were added or removed, and
// single settings, each with who changed it, why, and until when. [Overlay.Merge] combines both into the backends in force:
//
//   - an edit overrides the config, setting by setting, until it is undone or expires;
//   - a timed edit overrides a permanent one of the same setting, which is in force again afterwards;
//   - an added backend stays until it is removed; if the config gains the same backend, the config determines the settings without an edit;
//   - a removed backend stays away until it is added again; a caller that sees the config drop the backend, and later have it again, may
//     [Overlay.Forget] the removal.
//
// An Overlay is immutable: its methods return a new one, with another version. [Rebase] merges two that were made from the same one, as
// happens when two nodes share their storage, and [Encode] and [Decode] convert to and from the stored form.
//
// The package is independent of pools, HTTP and storage.
package overlay
